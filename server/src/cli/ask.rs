//! Asking a person before something is lost.

use std::io::{self, IsTerminal, Write};

use anyhow::bail;

/// Asks, and tells whether the answer was yes.
///
/// # Errors
/// Without a terminal nobody can be asked: the error is `reason` and that `--yes` says so beforehand.
pub fn confirm(question: &str, reason: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        bail!("{reason}: say --yes to do it all the same");
    }
    eprint!("{question} [y/N] ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
