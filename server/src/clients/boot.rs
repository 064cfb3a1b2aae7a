//! Boots and their tokens: which boot of a client may have its disk.
//!
//! A boot script carries a fresh token. Fetching a script is open to anyone (PXE has no authentication), so it
//! disturbs nothing: the boot is *pending*. The first attach with its token makes it *active*; from then on the
//! tokens of all earlier boots are dead. A reconnect carries the active token.

use std::{
    collections::BTreeSet,
    fmt,
    str::FromStr,
    time::{Duration, SystemTime},
};

use images::{ImageName, VersionId};
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConstantTimeEq};

use crate::config::units::{BadValue, ClientName};

/// Pending boots that are remembered: firmware may fetch a script twice, and only the last few can still be used.
const MOST_PENDING: usize = 16;
/// A script that is fetched again so soon is the same boot: fetching it over and over cannot crowd out a boot that is
/// still loading its kernel.
const SAME_BOOT: Duration = Duration::from_secs(10);

/// A 128-bit secret that opens one client's disk for one boot; 32 hex digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Token([u8; 16]);

impl Token {
    /// A token from 128 random bits.
    pub fn new(random: [u8; 16]) -> Self {
        Token(random)
    }

    fn is(&self, other: &Token) -> Choice {
        self.0.ct_eq(&other.0)
    }

    /// Whether they are the same, found out in constant time.
    pub fn equals(&self, other: &Token) -> bool {
        self.is(other).into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Never shows the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl FromStr for Token {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let wrong = || BadValue("a token is 32 hex digits".into());
        let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(text, 16).ok().filter(|_| plain);
        number.map(|n| Token(n.to_be_bytes())).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Token {
    type Error = BadValue;

    fn try_from(text: String) -> Result<Self, BadValue> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> String {
        token.to_string()
    }
}

/// One boot of a client: what its script said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// What opens the disk.
    pub token: Token,
    /// The image: a machine has a disk for each that it boots.
    pub image: ImageName,
    /// The version whose kernel the script named, and over which a fresh overlay is made.
    pub version: VersionId,
    /// When the script was fetched.
    pub fetched: SystemTime,
    /// What the machine was called then: its export keeps this name for as long as the boot lasts.
    pub name: ClientName,
}

/// The boots of one client.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boots {
    /// The one that may have the disk.
    pub active: Option<Boot>,
    /// Scripts fetched since; oldest first.
    pub pending: Vec<Boot>,
    /// The active boot's overlay is still to be made, and it must not be answered before.
    pub making: bool,
    /// Images whose next boot gets a fresh overlay, because it was told to.
    pub fresh_next: BTreeSet<ImageName>,
    /// The active boot said that it is shutting down.
    pub shut_down: bool,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The running boot, reconnecting.
    Reconnect(Boot),
    /// A new boot, attaching for the first time.
    NewBoot(Boot),
}

impl Admission {
    /// The boot that it is about.
    pub fn boot(&self) -> &Boot {
        let (Admission::Reconnect(boot) | Admission::NewBoot(boot)) = self;
        boot
    }
}

impl Boots {
    /// The boot whose script was fetched for the same version only just now.
    pub fn just_fetched(&self, version: VersionId, now: SystemTime) -> Option<&Boot> {
        let mut newest_first = self.pending.iter().rev();
        let boot = newest_first.find(|boot| boot.version == version)?;
        let age = now.duration_since(boot.fetched).ok()?;
        (age < SAME_BOOT).then_some(boot)
    }

    /// Remembers a boot whose script was fetched.
    pub fn expect(&mut self, boot: Boot) {
        if self.pending.len() == MOST_PENDING {
            self.pending.remove(0);
        }
        self.pending.push(boot);
    }

    /// What `token` stands for; takes the same time whichever it is, or none.
    pub fn admit(&self, token: &Token) -> Option<Admission> {
        let active = self.active.iter().map(|boot| (boot, true));
        let all = active.chain(self.pending.iter().map(|boot| (boot, false)));
        let mut found = None;
        for (boot, reconnect) in all {
            if bool::from(boot.token.is(token)) {
                found = Some((boot, reconnect));
            }
        }
        found.map(|(boot, reconnect)| match reconnect {
            true => Admission::Reconnect(boot.clone()),
            false => Admission::NewBoot(boot.clone()),
        })
    }

    /// Makes `boot` the active one: the tokens of all boots before it die. With `fresh` its overlay is to be made.
    pub fn activate(&mut self, boot: Boot, fresh: bool) {
        let place = self
            .pending
            .iter()
            .position(|pending| pending.token == boot.token);
        self.pending.drain(..place.map_or(0, |place| place + 1));
        // What the boot before was promised, and was not given, is still owed.
        if let Some(unmade) = self.active.take().filter(|_| self.making) {
            self.fresh_next.insert(unmade.image);
        }
        self.making = self.fresh_next.remove(&boot.image) || fresh;
        self.active = Some(boot);
        self.shut_down = false;
    }

    /// Whether a further boot of `image` was promised a fresh disk.
    pub fn owes_fresh(&self, image: &ImageName) -> bool {
        let unmade = self.active.as_ref().filter(|_| self.making);
        self.fresh_next.contains(image) || unmade.is_some_and(|boot| boot.image == *image)
    }

    /// The versions that a script promised and an attach may still ask for.
    pub fn versions(&self) -> impl Iterator<Item = VersionId> + '_ {
        self.active
            .iter()
            .chain(&self.pending)
            .map(|boot| boot.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot(number: u8) -> Boot {
        let version = serde_json::from_str("\"6a3f0e5c-58c5-4b10-9a0e-1f2d3c4b5a69\"").unwrap();
        Boot {
            token: Token::new([number; 16]),
            image: "debian".parse().unwrap(),
            version,
            fetched: SystemTime::UNIX_EPOCH,
            name: "r-1".parse().unwrap(),
        }
    }

    #[test]
    fn a_script_fetched_by_anyone_leaves_the_running_boot_alone() {
        let mut boots = Boots::default();
        boots.activate(boot(1), true);
        boots.expect(boot(2));
        assert_eq!(
            boots.admit(&boot(1).token),
            Some(Admission::Reconnect(boot(1)))
        );
        assert_eq!(
            boots.admit(&boot(2).token),
            Some(Admission::NewBoot(boot(2)))
        );
    }

    #[test]
    fn the_first_attach_of_a_boot_kills_the_tokens_before_it() {
        let mut boots = Boots::default();
        boots.activate(boot(1), true);
        boots.expect(boot(2));
        boots.expect(boot(3));
        boots.expect(boot(4));
        boots.activate(boot(3), true);
        assert_eq!(boots.admit(&boot(1).token), None);
        assert_eq!(boots.admit(&boot(2).token), None);
        assert_eq!(
            boots.admit(&boot(3).token),
            Some(Admission::Reconnect(boot(3)))
        );
    }

    #[test]
    fn fetching_scripts_for_ever_takes_no_room() {
        let mut boots = Boots::default();
        (0..100).for_each(|number| boots.expect(boot(number)));
        assert_eq!(boots.pending.len(), MOST_PENDING);
        assert_eq!(
            boots.admit(&boot(99).token),
            Some(Admission::NewBoot(boot(99)))
        );
    }

    #[test]
    fn a_script_fetched_twice_at_once_is_one_boot() {
        let mut boots = Boots::default();
        boots.expect(boot(1));
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(boots.just_fetched(boot(1).version, at(9)), Some(&boot(1)));
        assert_eq!(boots.just_fetched(boot(1).version, at(10)), None);
        assert_eq!(boots.just_fetched(VersionId::random(), at(1)), None);
    }

    #[test]
    fn a_told_reset_outlives_a_boot_that_could_not_be_given_its_disk() {
        let mut boots = Boots::default();
        boots.activate(boot(1), false);
        boots.fresh_next = [boot(1).image].into();
        boots.activate(boot(2), true);
        assert!(boots.making && boots.owes_fresh(&boot(2).image));
        let mut other = boot(3);
        other.image = "other".parse().unwrap();
        boots.activate(other, false);
        assert!(!boots.making && boots.owes_fresh(&boot(2).image));
        boots.activate(boot(4), false);
        assert!(boots.making);
    }

    #[test]
    fn scripts_fetched_in_turn_do_not_push_one_another_out() {
        let mut boots = Boots::default();
        boots.expect(boot(1));
        let mut other = boot(2);
        other.version = VersionId::random();
        boots.expect(other.clone());
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        assert_eq!(boots.just_fetched(boot(1).version, now), Some(&boot(1)));
        assert_eq!(boots.just_fetched(other.version, now), Some(&other));
    }

    #[test]
    fn a_told_reset_takes_effect_at_the_next_boot_only() {
        let mut boots = Boots::default();
        boots.activate(boot(1), false);
        let image = boot(1).image;
        boots.fresh_next = [image, "other".parse().unwrap()].into();
        assert!(!boots.making);
        boots.activate(boot(2), false);
        assert!(boots.making);
        assert_eq!(boots.fresh_next, ["other".parse().unwrap()].into());
    }

    #[test]
    fn tokens_survive_as_text_and_stay_out_of_logs() {
        let token = Token::new(*b"0123456789abcdef");
        assert_eq!(token.to_string().parse(), Ok(token));
        assert!("+123456789abcdef0123456789abcdef".parse::<Token>().is_err());
        assert_eq!(format!("{token:?}"), "Token(…)");
    }
}
