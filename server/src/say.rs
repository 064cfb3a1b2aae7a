//! Lines on standard output. `println!` panics when nobody reads them any more, as with `| head`.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    process,
};

/// Prints a line that is the answer of a verb. When nobody reads it any more, the verb is done.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::answer(format_args!($($text)*)) };
}

/// Prints a line about something that goes on, whether or not anybody reads it.
macro_rules! tell {
    ($($text:tt)*) => { $crate::say::news(format_args!($($text)*)) };
}

/// See [`say!`].
pub fn answer(text: Arguments<'_>) {
    let Err(error) = write(text) else { return };
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(0);
    }
    // A full disk behind `> file`, for one.
    let _ = writeln!(io::stderr(), "bootroom: cannot print the answer: {error}");
    process::exit(1);
}

/// See [`tell!`].
pub fn news(text: Arguments<'_>) {
    let _ = write(text);
}

fn write(text: Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}
