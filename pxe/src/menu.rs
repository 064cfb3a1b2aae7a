//! The same choice of systems for each boot loader: as iPXE script, as GRUB configuration, as PXELINUX configuration.
//!
//! Firmware with Secure Boot starts only signed loaders, hence GRUB; some sites want PXELINUX. Whatever the loader, a
//! machine gets the same kernel, initrd and command line from the same [`Menu`].

use std::fmt::Write;

use crate::machine::Mac;

/// What one entry boots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A Linux kernel, by URL (`http://…`).
    Linux {
        /// The kernel.
        kernel: String,
        /// The initrds, which the kernel unpacks one over the other in this order.
        initrds: Vec<String>,
        /// The command line, without the `initrd=` that some loaders want.
        command_line: String,
    },
    /// The machine's own disk.
    LocalDisk,
    /// A program for the loader to run: memtest86+ and its like. BIOS and UEFI want different files.
    Program {
        /// For BIOS, by URL.
        bios: String,
        /// For UEFI, by URL.
        efi: String,
    },
    /// Another script or configuration of this server, by URL: made when it is chosen, not when the menu is.
    Further(String),
}

/// A line of the menu.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What people read.
    pub title: String,
    /// What it boots.
    pub target: Target,
}

/// What a machine may boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Menu {
    /// The entries. With one only, no menu is shown.
    pub entries: Vec<Entry>,
    /// Which entry is booted when nobody chooses, from zero.
    pub default: usize,
    /// Seconds until the default is booted; zero: at once.
    pub timeout: u32,
}

/// Whose language a script or configuration is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// iPXE's.
    Ipxe,
    /// GRUB's.
    Grub,
    /// PXELINUX's.
    Pxelinux,
}

impl Language {
    fn menu_root(self) -> &'static str {
        match self {
            Self::Ipxe => "ipxe/menu/",
            Self::Grub => "grub/menu/",
            Self::Pxelinux => "pxelinux/menu/",
        }
    }
}

/// What a loader asks for by path: a machine's menu, or one entry of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConfigPath {
    /// Who asks.
    pub language: Language,
    /// For which machine; without a MAC, for whoever asks ([`crate::FileRequest::mac`]).
    pub mac: Option<Mac>,
    /// Which entry of the menu, from zero; none: the menu itself.
    pub entry: Option<usize>,
}

impl ConfigPath {
    /// Recognises the paths that iPXE is told (`ipxe/MAC`), that GRUB (`grub/grub.cfg`, `grub/grub.cfg-01-MAC`) and
    /// PXELINUX (`pxelinux/pxelinux.cfg/01-MAC`, `…/default`) ask for, and those of [`Self::of_entry`]. The loaders'
    /// further tries, by IP address or UUID, are none.
    pub fn parse(path: &str) -> Option<Self> {
        let languages = [Language::Ipxe, Language::Grub, Language::Pxelinux];
        for language in languages {
            if let Some(rest) = path.strip_prefix(language.menu_root()) {
                return Self::parse_entry(language, rest);
            }
        }
        let (language, mac) = Self::parse_first(path)?;
        Some(Self {
            language,
            mac,
            entry: None,
        })
    }

    fn parse_entry(language: Language, path: &str) -> Option<Self> {
        let (mac, entry) = path.split_once('/')?;
        Some(Self {
            language,
            mac: Some(mac.parse().ok()?),
            entry: Some(entry.parse().ok()?),
        })
    }

    fn parse_first(path: &str) -> Option<(Language, Option<Mac>)> {
        let numbered = |text: &str| text.strip_prefix("01-")?.parse().ok();
        if let Some(mac) = path.strip_prefix("ipxe/") {
            return Some((Language::Ipxe, Some(mac.parse().ok()?)));
        }
        if let Some(rest) = path.strip_prefix("grub/grub.cfg") {
            return match rest.strip_prefix('-') {
                None if rest.is_empty() => Some((Language::Grub, None)),
                None => None,
                Some(rest) => Some((Language::Grub, Some(numbered(rest)?))),
            };
        }
        match path.strip_prefix("pxelinux/pxelinux.cfg/")? {
            "default" => Some((Language::Pxelinux, None)),
            rest => Some((Language::Pxelinux, Some(numbered(rest)?))),
        }
    }

    /// The path at which a machine's entry number `entry` is asked for.
    pub fn of_entry(language: Language, mac: Mac, entry: usize) -> String {
        format!("{}{}/{entry}", language.menu_root(), mac.dashed())
    }
}

impl Menu {
    /// A menu of one entry, booted at once.
    pub fn single(target: Target) -> Self {
        Self {
            entries: vec![Entry {
                title: "boot".into(),
                target,
            }],
            default: 0,
            timeout: 0,
        }
    }

    /// In this language.
    pub fn render(&self, language: Language) -> String {
        match language {
            Language::Ipxe => self.ipxe(),
            Language::Grub => self.grub(),
            Language::Pxelinux => self.pxelinux(),
        }
    }

    /// As an iPXE script.
    pub fn ipxe(&self) -> String {
        let mut out = String::from("#!ipxe\n");
        if let [entry] = self.entries.as_slice() {
            out.push_str(&ipxe_entry(entry));
            out.push_str(IPXE_FAILED);
            return out;
        }
        out.push_str("menu Boot\n");
        for (n, entry) in self.entries.iter().enumerate() {
            let title = ipxe_text(&entry.title);
            line(&mut out, format_args!("item entry{n} {title}"));
        }
        let (default, timeout) = (self.default, self.timeout.saturating_mul(1000).max(1));
        line(
            &mut out,
            format_args!(
                "choose --default entry{default} --timeout {timeout} target || set target entry{default}\n\
                 goto ${{target}}"
            ),
        );
        for (n, entry) in self.entries.iter().enumerate() {
            line(&mut out, format_args!(":entry{n}"));
            out.push_str(&ipxe_entry(entry));
        }
        out.push_str(IPXE_FAILED);
        out
    }

    /// As a GRUB configuration.
    pub fn grub(&self) -> String {
        let mut out = String::new();
        line(
            &mut out,
            format_args!("set timeout={}\nset default={}", self.timeout, self.default),
        );
        for entry in &self.entries {
            line(
                &mut out,
                format_args!("menuentry {} {{", grub_quoted(&entry.title)),
            );
            out.push_str(&grub_entry(&entry.target));
            out.push_str("}\n");
        }
        out
    }

    /// As a PXELINUX configuration. Plain `pxelinux.0` fetches by TFTP only, so URLs lose their host.
    pub fn pxelinux(&self) -> String {
        let mut out = String::new();
        line(&mut out, format_args!("DEFAULT entry{}", self.default));
        if self.entries.len() > 1 {
            // In tenths of a second; zero would be for ever.
            let timeout = self.timeout.saturating_mul(10).max(1);
            line(&mut out, format_args!("PROMPT 1\nTIMEOUT {timeout}"));
            for (n, entry) in self.entries.iter().enumerate() {
                let title = plain(&entry.title);
                line(&mut out, format_args!("SAY entry{n}: {title}"));
            }
        }
        for (n, entry) in self.entries.iter().enumerate() {
            line(&mut out, format_args!("LABEL entry{n}"));
            out.push_str(&pxelinux_entry(&entry.target));
        }
        out
    }
}

fn grub_entry(target: &Target) -> String {
    match target {
        Target::Linux {
            kernel,
            initrds,
            command_line,
        } => {
            let arguments: Vec<_> = command_line.split_whitespace().map(grub_quoted).collect();
            let initrds: Vec<_> = initrds.iter().map(|url| grub_path(url)).collect();
            format!(
                "  linux {} {}\n  initrd {}\n",
                grub_path(kernel),
                arguments.join(" "),
                initrds.join(" ")
            )
        }
        // UEFI goes on to its next boot entry.
        Target::LocalDisk => "  exit\n".into(),
        // Only UEFI machines get GRUB.
        Target::Program { efi, .. } => format!("  chainloader {}\n", grub_path(efi)),
        Target::Further(url) => format!("  configfile {}\n", grub_path(url)),
    }
}

fn pxelinux_entry(target: &Target) -> String {
    match target {
        Target::Linux {
            kernel,
            initrds,
            command_line,
        } => {
            let initrds: Vec<_> = initrds
                .iter()
                .map(|url| format!("::{}", tftp_path(url)))
                .collect();
            format!(
                "  LINUX ::{}\n  INITRD {}\n  APPEND {}\n",
                tftp_path(kernel),
                initrds.join(","),
                plain(command_line)
            )
        }
        Target::LocalDisk => "  LOCALBOOT 0\n".into(),
        Target::Program { bios, .. } => format!("  LINUX ::{}\n", tftp_path(bios)),
        Target::Further(url) => format!("  CONFIG ::{}\n", tftp_path(url)),
    }
}

/// What an iPXE script ends with: where its commands go that failed.
const IPXE_FAILED: &str =
    ":failed\necho Booting failed, restarting in 10 seconds\nsleep 10\nreboot\n";

/// What comes back from it, without having started anything, has failed.
fn ipxe_entry(entry: &Entry) -> String {
    let commands = match &entry.target {
        Target::Linux {
            kernel,
            initrds,
            command_line,
        } => {
            let (names, fetch) = (ipxe_initrd_arguments(initrds.len()), ipxe_initrds(initrds));
            format!(
                "kernel {kernel} {names} {} || goto failed\n{fetch}boot || goto failed",
                ipxe_text(command_line)
            )
        }
        Target::LocalDisk => {
            "iseq ${platform} efi && exit 1 || sanboot --no-describe --drive 0x80 ||".into()
        }
        Target::Program { bios, efi } => {
            format!("iseq ${{platform}} efi && chain {efi} || chain {bios} ||")
        }
        Target::Further(url) => format!("chain --replace --autofree {url} ||"),
    };
    format!("{commands}\ngoto failed\n")
}

/// What tells a kernel that is started by UEFI which of iPXE's images are its initrds (a BIOS has no use for it).
pub fn ipxe_initrd_arguments(count: usize) -> String {
    let arguments: Vec<_> = (0..count).map(|n| format!("initrd=initrd{n}")).collect();
    arguments.join(" ")
}

/// The commands that fetch them, or go to `failed`.
pub fn ipxe_initrds(urls: &[String]) -> String {
    let commands = urls.iter().enumerate();
    commands
        .map(|(n, url)| format!("initrd --name initrd{n} {url} || goto failed\n"))
        .collect()
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

/// Text in which no line ends and nothing is hidden.
fn plain(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// The same, with nothing that iPXE would expand or take for the next command.
fn ipxe_text(text: &str) -> String {
    plain(text)
        .replace("${", "$ {")
        .replace("||", "| |")
        .replace("&&", "& &")
}

/// A word in quotes that GRUB takes as it stands.
fn grub_quoted(text: &str) -> String {
    format!("'{}'", plain(text).replace('\'', r"'\''"))
}

/// `http://HOST/PATH` as GRUB names it: by TFTP, since Debian's signed GRUB has no HTTP, and Secure Boot lets it load no
/// modules.
fn grub_path(url: &str) -> String {
    let Some((host, path)) = host_and_path(url) else {
        return grub_quoted(url);
    };
    let host = host.split(':').next().unwrap_or(host);
    grub_quoted(&format!("(tftp,{host})/{path}"))
}

fn tftp_path(url: &str) -> &str {
    host_and_path(url).map_or(url, |(_, path)| path)
}

/// What stands before and behind the first slash of an `http` URL.
fn host_and_path(url: &str) -> Option<(&str, &str)> {
    url.strip_prefix("http://")?.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linux() -> Target {
        Target::Linux {
            kernel: "http://10.0.0.1:80/boot/vmlinuz".into(),
            initrds: vec![
                "http://10.0.0.1:8080/boot/initrd".into(),
                "http://10.0.0.1:8080/identity".into(),
            ],
            command_line: "root=/dev/nbd0 a='b'".into(),
        }
    }

    #[test]
    fn one_system_boots_without_a_menu() {
        let menu = Menu::single(linux());
        let script = menu.ipxe();
        assert!(script.starts_with(
            "#!ipxe\nkernel http://10.0.0.1:80/boot/vmlinuz initrd=initrd0 initrd=initrd1 root=/dev/nbd0"
        ));
        assert!(script.contains("\ninitrd --name initrd1 http://10.0.0.1:8080/identity || "));
        assert!(!script.contains("menu"));
        let grub = menu.grub();
        assert!(
            grub.contains(
                "  linux '(tftp,10.0.0.1)/boot/vmlinuz' 'root=/dev/nbd0' 'a='\\''b'\\'''\n"
            ),
            "{grub}"
        );
        assert!(
            grub.contains("  initrd '(tftp,10.0.0.1)/boot/initrd' '(tftp,10.0.0.1)/identity'\n"),
            "{grub}"
        );
        let pxelinux = menu.pxelinux();
        assert!(
            pxelinux.contains(
                "  LINUX ::boot/vmlinuz\n  INITRD ::boot/initrd,::identity\n  APPEND root=/dev/nbd0"
            ),
            "{pxelinux}"
        );
    }

    #[test]
    fn a_menu_has_a_default_and_a_timeout() {
        let entry = |title: &str, target| Entry {
            title: title.into(),
            target,
        };
        let entries = vec![
            entry("Debian", linux()),
            entry("Disk", Target::LocalDisk),
            entry(
                "Memory test",
                Target::Program {
                    bios: "http://10.0.0.1/memtest.bin".into(),
                    efi: "http://10.0.0.1/memtest.efi".into(),
                },
            ),
        ];
        let menu = Menu {
            entries,
            default: 1,
            timeout: 5,
        };
        let all = [
            (Language::Ipxe, "item entry1 Disk\n"),
            (Language::Ipxe, "--default entry1 --timeout 5000"),
            (
                Language::Ipxe,
                "efi && chain http://10.0.0.1/memtest.efi ||",
            ),
            (Language::Grub, "set timeout=5\nset default=1\n"),
            (Language::Grub, "menuentry 'Disk' {\n  exit\n}"),
            (
                Language::Grub,
                "  chainloader '(tftp,10.0.0.1)/memtest.efi'\n",
            ),
            (Language::Pxelinux, "DEFAULT entry1\nPROMPT 1\nTIMEOUT 50\n"),
            (Language::Pxelinux, "LOCALBOOT 0"),
            (Language::Pxelinux, "  LINUX ::memtest.bin\n"),
        ];
        for (language, words) in all {
            let text = menu.render(language);
            assert!(text.contains(words), "{words} is missing in:\n{text}");
        }
    }

    #[test]
    fn an_entry_is_asked_for_when_it_is_chosen() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
        for (language, words) in [
            (
                Language::Ipxe,
                "chain --replace --autofree http://10.0.0.1/ipxe/menu/",
            ),
            (Language::Grub, "configfile '(tftp,10.0.0.1)/grub/menu/"),
            (Language::Pxelinux, "CONFIG ::pxelinux/menu/"),
        ] {
            let path = ConfigPath::of_entry(language, mac, 3);
            let expected = ConfigPath {
                language,
                mac: Some(mac),
                entry: Some(3),
            };
            assert_eq!(ConfigPath::parse(&path), Some(expected));
            let menu = Menu::single(Target::Further(format!("http://10.0.0.1:80/{path}")));
            let text = menu.render(language).replace(":80/", "/");
            assert!(text.contains(words), "{text}");
        }
        for path in [
            "ipxe/menu/x/1",
            "grub/menu/52-54-00-12-00-01/x",
            "ipxe/menu/",
        ] {
            assert_eq!(ConfigPath::parse(path), None, "{path}");
        }
    }

    #[test]
    fn titles_and_parameters_cannot_become_commands() {
        let entry = |title: &str| Entry {
            title: title.into(),
            target: Target::LocalDisk,
        };
        let nasty = "x' }\npoweroff ${mac} || shell";
        let menu = Menu {
            entries: vec![entry(nasty), entry("b")],
            default: 0,
            timeout: 1,
        };
        assert!(
            !menu.ipxe().lines().any(|l| l.starts_with("poweroff"))
                && !menu.ipxe().contains("${mac}")
        );
        assert!(!menu.ipxe().contains("|| shell"));
        assert!(menu.grub().contains(r"'x'\'' } poweroff ${mac} || shell'"));
        assert!(!menu.pxelinux().lines().any(|l| l.starts_with("poweroff")));
    }

    #[test]
    fn loaders_ask_by_known_paths() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
        let some = |language, mac| {
            Some(ConfigPath {
                language,
                mac,
                entry: None,
            })
        };
        for (path, expected) in [
            ("ipxe/52-54-00-12-00-01", some(Language::Ipxe, Some(mac))),
            ("ipxe/ipxe.efi", None),
            ("grub/grub.cfg", some(Language::Grub, None)),
            (
                "grub/grub.cfg-01-52-54-00-12-00-01",
                some(Language::Grub, Some(mac)),
            ),
            (
                "pxelinux/pxelinux.cfg/default",
                some(Language::Pxelinux, None),
            ),
            (
                "pxelinux/pxelinux.cfg/01-52-54-00-12-00-01",
                some(Language::Pxelinux, Some(mac)),
            ),
            ("pxelinux/pxelinux.cfg/0A000001", None),
            ("grub/grub.cfg-0A000001", None),
            ("grub/grub.cfgx", None),
            ("boot/vmlinuz", None),
        ] {
            assert_eq!(ConfigPath::parse(path), expected, "{path}");
        }
    }
}
