//! What a server promised when the disk was attached, and whether a later promise is about the same disk.

use crate::error::{Error, Kind, Result};

/// Transmission flags (NBD protocol, "Transmission flags") that the kernel's client acts on.
pub mod flag {
    /// The export refuses writes.
    pub const READ_ONLY: u16 = 1 << 1;
    /// FLUSH is understood.
    pub const FLUSH: u16 = 1 << 2;
    /// FUA is understood.
    pub const FUA: u16 = 1 << 3;
    /// Spinning disk.
    pub const ROTATIONAL: u16 = 1 << 4;
    /// TRIM is understood.
    pub const TRIM: u16 = 1 << 5;
    /// WRITE_ZEROES is understood.
    pub const WRITE_ZEROES: u16 = 1 << 6;
    /// All that are passed to the kernel. Not among them: those of replies that the kernel cannot read.
    pub const KNOWN: u16 = 1 | READ_ONLY | FLUSH | FUA | ROTATIONAL | TRIM | WRITE_ZEROES;
}

/// What the server says about an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// Size in bytes.
    pub size: u64,
    /// Transmission flags, limited to [`flag::KNOWN`].
    pub flags: u16,
    /// Smallest request in bytes.
    pub minimum: u32,
    /// Largest payload of a request in bytes.
    pub maximum: u32,
    /// The server's own words about the export. bootroom's server puts the overlay and the boot there.
    pub description: Option<String>,
}

/// The kernel's limits for the logical block size, in bytes.
const BLOCK: std::ops::RangeInclusive<u32> = 512..=4096;

impl Terms {
    /// The logical block size to attach the disk with, in bytes.
    pub fn block(&self) -> Result<u64> {
        let block = self.minimum.max(*BLOCK.start());
        let usable = block <= *BLOCK.end()
            && block.is_power_of_two()
            && self.size.is_multiple_of(u64::from(block));
        match usable && self.size != 0 {
            true => Ok(u64::from(block)),
            false => Err(refuse(format!(
                "its size of {} bytes and smallest request of {} bytes make no disk that Linux can use",
                self.size, self.minimum
            ))),
        }
    }

    /// Whether `now` can take the place of `self` under a running system. The kernel keeps what it was first told, so
    /// everything it was told has to hold still.
    pub fn check_same(&self, now: &Self) -> Result<()> {
        if self.size != now.size {
            return Err(refuse(format!(
                "it has {} bytes now, and had {}",
                now.size, self.size
            )));
        }
        if let (Some(then), Some(now)) = (&self.description, &now.description)
            && then != now
        {
            return Err(refuse(format!("it is {now:?} now, and was {then:?}")));
        }
        let writable = flag::READ_ONLY;
        let (had, has) = (self.flags & !writable, now.flags & !writable);
        let lost = had & !has & !flag::ROTATIONAL;
        if lost != 0 || (now.flags & !self.flags & writable) != 0 {
            return Err(refuse(format!(
                "it has lost abilities (flags {:#x}, were {:#x})",
                now.flags, self.flags
            )));
        }
        if now.minimum > self.minimum.max(*BLOCK.start())
            || now.maximum < self.maximum.min(self.largest_request())
        {
            return Err(refuse(
                "it takes other request sizes than before".to_owned(),
            ));
        }
        Ok(())
    }

    /// Largest request that the kernel sends, in bytes: its default, or less if the server asked for less.
    pub fn largest_request(&self) -> u32 {
        self.maximum.min(KERNEL_REQUEST)
    }

    /// What to write into the queue's `max_sectors_kb`, if the kernel's default is more than the server takes.
    pub fn max_sectors_kb(&self) -> Option<u32> {
        (self.maximum < KERNEL_REQUEST).then_some(self.maximum / 1024)
    }
}

/// The kernel's default for the largest request on a block device, in bytes.
const KERNEL_REQUEST: u32 = 1280 << 10;

fn refuse(why: String) -> Error {
    Error::new(
        Kind::Refused,
        format!("the server offers another disk than the one this machine runs on: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let flags = 1 | flag::FLUSH | flag::FUA | flag::TRIM;
        Terms {
            size: 1 << 30,
            flags,
            minimum: 1,
            maximum: 32 << 20,
            description: Some("overlay a, boot b".into()),
        }
    }

    #[test]
    fn the_same_disk_is_accepted_even_with_more_abilities() {
        let now = Terms {
            flags: terms().flags | flag::WRITE_ZEROES | flag::ROTATIONAL,
            ..terms()
        };
        terms().check_same(&now).unwrap();
        terms()
            .check_same(&Terms {
                description: None,
                ..terms()
            })
            .unwrap();
    }

    #[test]
    fn another_disk_is_refused() {
        let others = [
            Terms {
                size: 1 << 29,
                ..terms()
            },
            Terms {
                size: 1 << 31,
                ..terms()
            },
            Terms {
                description: Some("overlay a, boot c".into()),
                ..terms()
            },
            Terms {
                flags: terms().flags | flag::READ_ONLY,
                ..terms()
            },
            Terms {
                flags: terms().flags & !flag::FLUSH,
                ..terms()
            },
            Terms {
                minimum: 4096,
                ..terms()
            },
            Terms {
                maximum: 65536,
                ..terms()
            },
        ];
        for now in others {
            assert_eq!(
                terms().check_same(&now).unwrap_err().kind(),
                Kind::Refused,
                "{now:?}"
            );
        }
    }

    #[test]
    fn block_sizes() {
        assert_eq!(terms().block().unwrap(), 512);
        assert_eq!(
            Terms {
                minimum: 4096,
                ..terms()
            }
            .block()
            .unwrap(),
            4096
        );
        assert!(
            Terms {
                minimum: 8192,
                ..terms()
            }
            .block()
            .is_err()
        );
        assert!(
            Terms {
                size: 1000,
                ..terms()
            }
            .block()
            .is_err()
        );
        assert!(Terms { size: 0, ..terms() }.block().is_err());
        assert_eq!(
            Terms {
                maximum: 65536,
                ..terms()
            }
            .max_sectors_kb(),
            Some(64)
        );
        assert_eq!(terms().max_sectors_kb(), None);
    }
}
