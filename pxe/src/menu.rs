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
    /// A program for the loader to run, by URL: memtest86+ and its like.
    Program(String),
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
    /// The entries; the first is the default. With one only, no menu is shown.
    pub entries: Vec<Entry>,
    /// Seconds until the default is booted; zero: at once.
    pub timeout: u32,
}

/// Which machine's configuration a loader asks for by path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigPath {
    /// GRUB's; without a MAC, that of whoever asks ([`crate::FileRequest::mac`]).
    Grub(Option<Mac>),
    /// PXELINUX's.
    Pxelinux(Option<Mac>),
}

impl ConfigPath {
    /// Recognises the paths that GRUB (`grub/grub.cfg`, `grub/grub.cfg-01-MAC`) and PXELINUX
    /// (`pxelinux/pxelinux.cfg/01-MAC`, `…/default`) ask for. Their further tries, by IP address or UUID, are none.
    pub fn parse(path: &str) -> Option<Self> {
        let mac = |text: &str| text.strip_prefix("01-")?.parse().ok();
        if let Some(rest) = path.strip_prefix("grub/grub.cfg") {
            return match rest.strip_prefix('-') {
                None if rest.is_empty() => Some(Self::Grub(None)),
                None => None,
                Some(rest) => Some(Self::Grub(Some(mac(rest)?))),
            };
        }
        match path.strip_prefix("pxelinux/pxelinux.cfg/")? {
            "default" => Some(Self::Pxelinux(None)),
            rest => Some(Self::Pxelinux(Some(mac(rest)?))),
        }
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
            timeout: 0,
        }
    }

    /// As an iPXE script.
    pub fn ipxe(&self) -> String {
        let mut out = String::from("#!ipxe\n");
        if let [entry] = self.entries.as_slice() {
            out.push_str(&ipxe_entry(entry));
            return out;
        }
        out.push_str("menu Boot\n");
        for (n, entry) in self.entries.iter().enumerate() {
            line(
                &mut out,
                format_args!("item entry{n} {}", ipxe_text(&entry.title)),
            );
        }
        line(
            &mut out,
            format_args!(
                "choose --default entry0 --timeout {} target || goto entry0",
                self.timeout.saturating_mul(1000).max(1)
            ),
        );
        out.push_str("goto ${target}\n");
        for (n, entry) in self.entries.iter().enumerate() {
            line(&mut out, format_args!(":entry{n}"));
            out.push_str(&ipxe_entry(entry));
        }
        out
    }

    /// As a GRUB configuration.
    pub fn grub(&self) -> String {
        let mut out = String::new();
        line(
            &mut out,
            format_args!("set timeout={}\nset default=0", self.timeout),
        );
        for entry in &self.entries {
            line(
                &mut out,
                format_args!("menuentry {} {{", grub_quoted(&entry.title)),
            );
            match &entry.target {
                Target::Linux {
                    kernel,
                    initrds,
                    command_line,
                } => {
                    let arguments: Vec<_> =
                        command_line.split_whitespace().map(grub_quoted).collect();
                    line(
                        &mut out,
                        format_args!("  linux {} {}", grub_path(kernel), arguments.join(" ")),
                    );
                    let initrds: Vec<_> = initrds.iter().map(|url| grub_path(url)).collect();
                    line(&mut out, format_args!("  initrd {}", initrds.join(" ")));
                }
                // UEFI goes on to its next boot entry.
                Target::LocalDisk => out.push_str("  exit\n"),
                Target::Program(url) => {
                    line(&mut out, format_args!("  chainloader {}", grub_path(url)))
                }
            }
            out.push_str("}\n");
        }
        out
    }

    /// As a PXELINUX configuration. Plain `pxelinux.0` fetches by TFTP only, so URLs lose their host.
    pub fn pxelinux(&self) -> String {
        let mut out = String::from("DEFAULT entry0\n");
        if self.entries.len() > 1 {
            line(
                &mut out,
                format_args!("PROMPT 1\nTIMEOUT {}", self.timeout.saturating_mul(10)),
            );
            for (n, entry) in self.entries.iter().enumerate() {
                line(
                    &mut out,
                    format_args!("SAY entry{n}: {}", plain(&entry.title)),
                );
            }
        }
        for (n, entry) in self.entries.iter().enumerate() {
            line(&mut out, format_args!("LABEL entry{n}"));
            match &entry.target {
                Target::Linux {
                    kernel,
                    initrds,
                    command_line,
                } => {
                    let initrds: Vec<_> = initrds
                        .iter()
                        .map(|url| format!("::{}", tftp_path(url)))
                        .collect();
                    line(
                        &mut out,
                        format_args!(
                            "  KERNEL ::{}\n  INITRD {}\n  APPEND {}",
                            tftp_path(kernel),
                            initrds.join(","),
                            plain(command_line)
                        ),
                    );
                }
                Target::LocalDisk => out.push_str("  LOCALBOOT 0\n"),
                Target::Program(url) => {
                    line(&mut out, format_args!("  KERNEL ::{}", tftp_path(url)))
                }
            }
        }
        out
    }
}

fn ipxe_entry(entry: &Entry) -> String {
    let mut out = String::new();
    match &entry.target {
        Target::Linux {
            kernel,
            initrds,
            command_line,
        } => {
            line(
                &mut out,
                format_args!(
                    "kernel {kernel} {} {} || goto failed",
                    ipxe_initrd_arguments(initrds.len()),
                    ipxe_text(command_line)
                ),
            );
            out.push_str(&ipxe_initrds(initrds));
            out.push_str(
                "boot || goto failed\n\
                 :failed\necho Booting failed, restarting in 10 seconds\nsleep 10\nreboot\n",
            );
        }
        Target::LocalDisk => {
            out.push_str("iseq ${platform} efi && exit 1 || sanboot --no-describe --drive 0x80\n")
        }
        Target::Program(url) => line(&mut out, format_args!("chain {url} || exit 1")),
    }
    out
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

/// `http://HOST/PATH` as GRUB names it.
fn grub_path(url: &str) -> String {
    let path = match url
        .strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
    {
        Some((host, path)) => format!("(http,{})/{path}", host.strip_suffix(":80").unwrap_or(host)),
        None => url.to_owned(),
    };
    grub_quoted(&path)
}

fn tftp_path(url: &str) -> &str {
    url.strip_prefix("http://")
        .and_then(|rest| rest.split_once('/'))
        .map_or(url, |(_, path)| path)
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
                "  linux '(http,10.0.0.1)/boot/vmlinuz' 'root=/dev/nbd0' 'a='\\''b'\\'''\n"
            ),
            "{grub}"
        );
        assert!(
            grub.contains(
                "  initrd '(http,10.0.0.1:8080)/boot/initrd' '(http,10.0.0.1:8080)/identity'\n"
            ),
            "{grub}"
        );
        let pxelinux = menu.pxelinux();
        assert!(
            pxelinux.contains(
                "  KERNEL ::boot/vmlinuz\n  INITRD ::boot/initrd,::identity\n  APPEND root=/dev/nbd0"
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
                Target::Program("http://10.0.0.1/memtest".into()),
            ),
        ];
        let menu = Menu {
            entries,
            timeout: 5,
        };
        assert!(
            menu.ipxe().contains("item entry1 Disk\n")
                && menu.ipxe().contains("--default entry0 --timeout 5000")
        );
        assert!(
            menu.grub().contains("set timeout=5\n")
                && menu.grub().contains("menuentry 'Disk' {\n  exit\n}")
        );
        assert!(
            menu.pxelinux().contains("TIMEOUT 50\n") && menu.pxelinux().contains("LOCALBOOT 0")
        );
    }

    #[test]
    fn titles_and_parameters_cannot_become_commands() {
        let entry = |title: &str| Entry {
            title: title.into(),
            target: Target::LocalDisk,
        };
        let nasty = "x' }\nreboot ${mac} || shell";
        let menu = Menu {
            entries: vec![entry(nasty), entry("b")],
            timeout: 1,
        };
        assert!(
            !menu.ipxe().lines().any(|l| l.starts_with("reboot"))
                && !menu.ipxe().contains("${mac}")
        );
        assert!(!menu.ipxe().contains("|| shell"));
        assert!(menu.grub().contains(r"'x'\'' } reboot ${mac} || shell'"));
        assert!(!menu.pxelinux().lines().any(|l| l.starts_with("reboot")));
    }

    #[test]
    fn loaders_ask_by_known_paths() {
        let mac = Mac([0x52, 0x54, 0, 0x12, 0, 1]);
        for (path, expected) in [
            ("grub/grub.cfg", Some(ConfigPath::Grub(None))),
            (
                "grub/grub.cfg-01-52-54-00-12-00-01",
                Some(ConfigPath::Grub(Some(mac))),
            ),
            (
                "pxelinux/pxelinux.cfg/default",
                Some(ConfigPath::Pxelinux(None)),
            ),
            (
                "pxelinux/pxelinux.cfg/01-52-54-00-12-00-01",
                Some(ConfigPath::Pxelinux(Some(mac))),
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
