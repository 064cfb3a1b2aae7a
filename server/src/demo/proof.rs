//! What the demo claims, whether it held, and what it saw.

/// The claims made so far. Each is printed when it is made.
#[derive(Debug, Default)]
pub struct Proofs {
    made: usize,
    broken: Vec<String>,
}

impl Proofs {
    /// Makes a claim; `seen` is what it rests on.
    pub fn claim(&mut self, held: bool, claim: impl Into<String>, seen: impl AsRef<str>) {
        let claim = claim.into();
        self.made += 1;
        let mark = if held { "ok  " } else { "FAIL" };
        tell!("  {mark}  {claim}{}", parenthesised(seen.as_ref()));
        if !held {
            self.broken.push(claim);
        }
    }

    /// Whether every claim held, and there was one at all.
    pub fn all_held(&self) -> bool {
        self.made > 0 && self.broken.is_empty()
    }

    /// A sentence on the whole.
    pub fn verdict(&self) -> String {
        match self.broken.as_slice() {
            [] => format!("All {} checks held.", self.made),
            broken => format!(
                "{} of {} checks FAILED: {}",
                broken.len(),
                self.made,
                broken.join("; ")
            ),
        }
    }
}

/// What was seen on one line, short enough to read.
fn parenthesised(seen: &str) -> String {
    const LONGEST: usize = 100;
    let line = seen.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() {
        return String::new();
    }
    let short: String = line.chars().take(LONGEST).collect();
    let dots = if short.len() < line.len() { "…" } else { "" };
    format!("  ({short}{dots})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_claim_breaks_the_whole_and_is_named() {
        let mut proofs = Proofs::default();
        assert!(!proofs.all_held());
        proofs.claim(true, "water is wet", "");
        assert!(proofs.all_held());
        proofs.claim(false, "fire is cold", "ouch");
        assert!(!proofs.all_held());
        assert!(
            proofs.verdict().contains("fire is cold"),
            "{}",
            proofs.verdict()
        );
    }

    #[test]
    fn evidence_is_one_short_line() {
        assert_eq!(parenthesised("a\r\nb"), "  (a b)");
        assert_eq!(parenthesised(" \n"), "");
        assert!(parenthesised(&"ä".repeat(500)).ends_with("…)"));
    }
}
