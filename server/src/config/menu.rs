//! `[groups.NAME.menu]`: what a person may choose when a machine starts.

use std::{ops::Range, path::PathBuf, str::FromStr};

use images::ImageRef;

use super::{
    problem::Problem,
    reader::{Located, Section, nearest},
    units::{BadValue, Retention, Seconds},
};

/// How long a menu waits before it boots its default.
const DEFAULT_TIMEOUT: Seconds = Seconds(10);
/// Entries of a menu; no screen has more lines.
const MOST_ENTRIES: usize = 20;

/// A boot menu.
#[derive(Debug, Clone)]
pub struct Menu {
    /// How long it waits before it boots the default.
    pub timeout: Seconds,
    /// The entry that is booted when nobody chooses.
    pub default: usize,
    /// Whether the last choice of a machine is its default the next time.
    pub remember: bool,
    /// Its lines; at least one.
    pub entries: Vec<Entry>,
}

/// A line of a menu.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What people read; no other entry of the menu has it.
    pub title: String,
    /// What it boots.
    pub choice: Choice,
    /// Appended to the kernel command line of an image.
    pub kernel_args: Option<String>,
}

/// What an entry boots.
#[derive(Debug, Clone)]
pub enum Choice {
    /// An image of this server.
    Image(Located<ImageRef>),
    /// The machine's own disk.
    LocalDisk,
    /// A program for the bare machine, such as a memory test.
    Program(Program),
}

/// Files of a program, one for each kind of firmware; at least one is there.
#[derive(Debug, Clone)]
pub struct Program {
    /// For BIOS; for UEFI too, if it has no file of its own.
    pub bios: Option<Located<PathBuf>>,
    /// For UEFI.
    pub efi: Option<Located<PathBuf>>,
}

impl Program {
    /// The file for a kind of firmware.
    pub fn file(&self, efi: bool) -> Option<&PathBuf> {
        let (first, second) = match efi {
            true => (&self.efi, &self.bios),
            false => (&self.bios, &self.efi),
        };
        first.as_ref().or(second.as_ref()).map(|path| &path.value)
    }

    /// Every file of it.
    pub fn files(&self) -> impl Iterator<Item = &Located<PathBuf>> {
        self.bios.iter().chain(&self.efi)
    }
}

impl Menu {
    /// The image of its default entry, or of the first that has one.
    pub fn default_image(&self) -> Option<&Located<ImageRef>> {
        let default = self.entries.get(self.default);
        default
            .and_then(Entry::image)
            .or_else(|| self.images().next())
    }

    /// The images of all entries.
    pub fn images(&self) -> impl Iterator<Item = &Located<ImageRef>> {
        self.entries.iter().filter_map(Entry::image)
    }
}

impl Entry {
    /// The image that it boots, if it is one.
    pub fn image(&self) -> Option<&Located<ImageRef>> {
        match &self.choice {
            Choice::Image(image) => Some(image),
            _ => None,
        }
    }
}

/// Reads the table `menu` of a section.
pub fn read(section: &mut Section<'_>, problems: &mut Vec<Problem>) -> Option<Menu> {
    let mut section = section.table("menu", problems)?;
    let timeout = section.optional("timeout", problems);
    let default = section.optional::<String>("default", problems);
    let remember = section.boolean("remember", problems);
    let before = problems.len();
    let mut entries: Vec<Entry> = Vec::new();
    for entry in section.array("entries", problems) {
        entries.extend(read_entry(entry, &entries, problems));
    }
    let span = section.span();
    section.finish(problems);
    // The title of an entry that was not understood is no unknown one.
    if problems.len() > before {
        return None;
    }
    check_count(entries.len(), span, problems);
    let default = default.map_or(Some(0), |title| find(&entries, &title, problems))?;
    Some(Menu {
        timeout: timeout.map_or(DEFAULT_TIMEOUT, |timeout| timeout.value),
        default,
        remember: remember.unwrap_or(false),
        entries,
    })
}

fn check_count(count: usize, span: Range<usize>, problems: &mut Vec<Problem>) {
    let fix = "add to it: [[….menu.entries]] with title, and image, local = true, or program";
    if count == 0 {
        problems.push(Problem::at(span, "a menu without entries").fix(fix));
    } else if count > MOST_ENTRIES {
        let message = format!("a menu of {count} entries; {MOST_ENTRIES} fit on a screen");
        problems.push(Problem::at(span, message));
    }
}

fn find(entries: &[Entry], title: &Located<String>, problems: &mut Vec<Problem>) -> Option<usize> {
    let titles = || entries.iter().map(|entry| entry.title.as_str());
    let found = titles().position(|other| other == title.value);
    if found.is_none() {
        let message = format!("default: the menu has no entry `{}`", title.value);
        let fix = match nearest(&title.value, titles()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("its entries: {}", titles().collect::<Vec<_>>().join(", ")),
        };
        problems.push(Problem::at(title.span.clone(), message).fix(fix));
    }
    found
}

fn read_entry(
    mut section: Section<'_>,
    before: &[Entry],
    problems: &mut Vec<Problem>,
) -> Option<Entry> {
    let title = section.required::<Title>("title", "\"Debian\"", problems);
    let image = section.optional("image", problems);
    let local = section.boolean("local", problems).unwrap_or(false);
    let program = Program {
        bios: section.optional("program", problems),
        efi: section.optional("program_efi", problems),
    };
    let kernel_args = section.optional("kernel_args", problems).map(|l| l.value);
    let span = section.span();
    section.finish(problems);
    let program = Some(program).filter(|program| program.files().next().is_some());
    let choice = match (image, local, program) {
        (Some(image), false, None) => Choice::Image(image),
        (None, true, None) => Choice::LocalDisk,
        (None, false, Some(program)) => Choice::Program(program),
        _ => {
            let message = "an entry boots one thing";
            let fix = "give it one of: image = \"debian\", local = true, program = \"/boot/memtest86+x64.bin\"";
            problems.push(Problem::at(span, message).fix(fix));
            return None;
        }
    };
    let title = title?;
    if before.iter().any(|entry| entry.title == title.value.0) {
        let message = format!("two entries are called `{}`", title.value.0);
        problems.push(Problem::at(title.span, message).fix("give each a title of its own"));
        return None;
    }
    Some(Entry {
        title: title.value.0,
        choice,
        kernel_args,
    })
}

/// A line that a boot loader can show.
struct Title(String);

impl FromStr for Title {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let shown = text.chars().all(|c| c == ' ' || c.is_ascii_graphic());
        match shown && (1..=60).contains(&text.trim().len()) {
            true => Ok(Title(text.trim().to_owned())),
            false => Err(BadValue(format!(
                "`{text}` cannot be shown by every boot loader: use 1 to 60 ASCII characters"
            ))),
        }
    }
}

/// A machine has one disk for each image. Two versions of one image in a menu would fight over it, unless it is made
/// afresh at every boot.
pub fn check(menu: &Menu, retention: Option<Retention>, problems: &mut Vec<Problem>) {
    if retention.unwrap_or_default() == Retention::Boot {
        return;
    }
    let images: Vec<_> = menu.images().collect();
    for (index, image) in images.iter().enumerate() {
        let twin = |other: &&&Located<ImageRef>| {
            other.value.image == image.value.image && other.value != image.value
        };
        if let Some(other) = images[..index].iter().find(twin) {
            let message = format!(
                "`{}` and `{}` are versions of one image, and a lasting disk lies over one version",
                other.value, image.value
            );
            let fix = "keep one of the two, or set retention = \"boot\"";
            problems.push(Problem::at(image.span.clone(), message).fix(fix));
        }
    }
}
