//! Which requests may be served, and which error the others get ("Request types", "Error values").

use crate::export::{ContextId, MetaContext};
use crate::flags::{CommandFlags, TransmissionFlags};
use crate::numbers::{Command, HeaderStyle, IoError};
use crate::request::Request;

/// What was agreed on, as far as it decides about requests.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Size of the export in bytes.
    pub size: u64,
    /// The flags that were sent to the client.
    pub flags: TransmissionFlags,
    /// Smallest length and alignment in bytes; a power of two.
    pub minimum_block: u32,
    /// Largest payload in bytes.
    pub max_payload: u32,
    /// The agreed headers.
    pub style: HeaderStyle,
    /// Whether metadata contexts were selected.
    pub has_contexts: bool,
}

/// A request that may be served; ranges lie within the export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Send the range.
    Read {
        /// Answer in one piece.
        whole: bool,
    },
    /// Store the payload.
    Write {
        /// Durable before the reply.
        fua: bool,
    },
    /// Make everything answered so far durable.
    Flush,
    /// Forget the range.
    Trim {
        /// Durable before the reply.
        fua: bool,
    },
    /// Make the range read as zeroes.
    WriteZeroes {
        /// Durable before the reply.
        fua: bool,
        /// The range may become a hole.
        may_hole: bool,
        /// Fail with ENOTSUP unless it is fast.
        only_fast: bool,
    },
    /// Fetch the range into memory.
    Cache,
    /// Report the range's state; the range ends at the export's end.
    BlockStatus {
        /// One extent only.
        one: bool,
        /// A payload names the contexts and the real length.
        payload: bool,
    },
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Serve it.
    Serve(Operation),
    /// Skip its payload and answer with this error.
    Refuse(IoError),
    /// The client says goodbye.
    Disconnect,
    /// Its payload is beyond all limits: close the connection.
    Drop,
}

/// Payloads up to this size are read and thrown away when they are too large to serve; beyond, the
/// specification allows to close the connection. In bytes.
const TOLERATED_PAYLOAD: u64 = 64 << 20;

impl Rules {
    /// Judges a request by its header.
    #[inline]
    pub fn judge(&self, request: &Request) -> Verdict {
        if request.command == Command::Disconnect {
            return Verdict::Disconnect;
        }
        let payload = request.payload_len(self.style);
        if payload > u64::from(self.max_payload) {
            let tolerated = self.style != HeaderStyle::Extended && payload <= TOLERATED_PAYLOAD;
            return if tolerated {
                Verdict::Refuse(IoError::Invalid)
            } else {
                Verdict::Drop
            };
        }
        match self.operation(request) {
            Ok(operation) => Verdict::Serve(operation),
            Err(error) => Verdict::Refuse(error),
        }
    }

    #[inline]
    fn operation(&self, request: &Request) -> Result<Operation, IoError> {
        self.check_flags(request)?;
        let fua = request.flags.contains(CommandFlags::FUA);
        match request.command {
            Command::Read => {
                self.check_range(request, IoError::Invalid)?;
                let whole = request.flags.contains(CommandFlags::DF);
                self.check_read_length(request, whole)
                    .map(|()| Operation::Read { whole })
            }
            Command::Write => self.check_write(request).map(|()| Operation::Write { fua }),
            Command::Flush => self.check_flush(request).map(|()| Operation::Flush),
            Command::Trim => {
                self.check_writable(TransmissionFlags::SEND_TRIM)?;
                self.check_range(request, IoError::Invalid)
                    .map(|()| Operation::Trim { fua })
            }
            Command::WriteZeroes => {
                self.check_writable(TransmissionFlags::SEND_WRITE_ZEROES)?;
                self.check_range(request, IoError::NoSpace)?;
                Ok(Operation::WriteZeroes {
                    fua,
                    may_hole: !request.flags.contains(CommandFlags::NO_HOLE),
                    only_fast: request.flags.contains(CommandFlags::FAST_ZERO),
                })
            }
            Command::Cache => self
                .check_range(request, IoError::Invalid)
                .map(|()| Operation::Cache),
            Command::BlockStatus => self.block_status(request),
            Command::Disconnect | Command::Unknown(_) => Err(IoError::Invalid),
        }
    }

    /// Unknown flags, and known ones where they do not belong, get EINVAL. FUA is let through on
    /// every command, as the specification asks for.
    #[inline]
    fn check_flags(&self, request: &Request) -> Result<(), IoError> {
        let none = CommandFlags::default();
        let allowed = match request.command {
            Command::Read => none.with_if(CommandFlags::DF, self.has(TransmissionFlags::SEND_DF)),
            Command::WriteZeroes => CommandFlags::NO_HOLE.with_if(
                CommandFlags::FAST_ZERO,
                self.has(TransmissionFlags::SEND_FAST_ZERO),
            ),
            Command::BlockStatus => CommandFlags::REQ_ONE.with_if(
                CommandFlags::PAYLOAD_LEN,
                self.has(TransmissionFlags::BLOCK_STATUS_PAYLOAD),
            ),
            Command::Write => none.with_if(CommandFlags::PAYLOAD_LEN, self.extended()),
            _ => none,
        };
        let allowed = allowed.with_if(CommandFlags::FUA, self.has(TransmissionFlags::SEND_FUA));
        if request.flags.without(allowed) == none {
            Ok(())
        } else {
            Err(IoError::Invalid)
        }
    }

    #[inline]
    fn has(&self, flag: TransmissionFlags) -> bool {
        self.flags.contains(flag)
    }

    #[inline]
    fn extended(&self) -> bool {
        self.style == HeaderStyle::Extended
    }

    #[inline]
    fn check_range(&self, request: &Request, past_end: IoError) -> Result<(), IoError> {
        match request.offset.checked_add(request.length) {
            Some(end) if end <= self.size => {}
            _ => return Err(past_end),
        }
        let mask = u64::from(self.minimum_block) - 1;
        if (request.offset | request.length) & mask != 0 {
            return Err(IoError::Invalid);
        }
        Ok(())
    }

    #[inline]
    fn check_read_length(&self, request: &Request, whole: bool) -> Result<(), IoError> {
        if request.length <= u64::from(self.max_payload) {
            return Ok(());
        }
        Err(if whole {
            IoError::Overflow
        } else {
            IoError::Invalid
        })
    }

    #[inline]
    fn check_write(&self, request: &Request) -> Result<(), IoError> {
        if self.extended() && !request.flags.contains(CommandFlags::PAYLOAD_LEN) {
            return Err(IoError::Invalid);
        }
        if self.has(TransmissionFlags::READ_ONLY) {
            return Err(IoError::NotPermitted);
        }
        self.check_range(request, IoError::NoSpace)
    }

    fn check_writable(&self, flag: TransmissionFlags) -> Result<(), IoError> {
        if self.has(TransmissionFlags::READ_ONLY) {
            return Err(IoError::NotPermitted);
        }
        if self.has(flag) {
            Ok(())
        } else {
            Err(IoError::Invalid)
        }
    }

    fn check_flush(&self, request: &Request) -> Result<(), IoError> {
        let fine =
            self.has(TransmissionFlags::SEND_FLUSH) && request.offset == 0 && request.length == 0;
        if fine { Ok(()) } else { Err(IoError::Invalid) }
    }

    fn block_status(&self, request: &Request) -> Result<Operation, IoError> {
        if !self.has_contexts {
            return Err(IoError::Invalid);
        }
        let one = request.flags.contains(CommandFlags::REQ_ONE);
        let payload = request.flags.contains(CommandFlags::PAYLOAD_LEN);
        if payload {
            let shape = request.length >= 8
                && request.length.is_multiple_of(4)
                && request.offset < self.size;
            return if shape {
                Ok(Operation::BlockStatus { one, payload })
            } else {
                Err(IoError::Invalid)
            };
        }
        self.check_range(request, IoError::Invalid)?;
        if request.length == 0 {
            return Err(IoError::Invalid);
        }
        Ok(Operation::BlockStatus { one, payload })
    }
}

/// Reads the payload of a BLOCK_STATUS request that names contexts: the length that is asked for and the contexts.
/// `None` when it is malformed, or names an unknown context or one twice.
pub fn status_filter(payload: &[u8], selected: &[MetaContext]) -> Option<(u64, Vec<MetaContext>)> {
    let (span, ids) = payload.split_first_chunk::<8>()?;
    if ids.len() / 4 > selected.len() {
        return None;
    }
    let mut wanted: Vec<MetaContext> = Vec::new();
    for id in ids.chunks(4) {
        let id = ContextId(u32::from_be_bytes(id.try_into().ok()?));
        let context = selected.iter().find(|context| context.id == id)?;
        if wanted.contains(context) {
            return None;
        }
        wanted.push(context.clone());
    }
    (!wanted.is_empty()).then_some((u64::from_be_bytes(*span), wanted))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cookie;
    use proptest::prelude::*;

    const ALL: TransmissionFlags = TransmissionFlags::from_bits(0x1fff & !(1 << 1));

    fn rules() -> Rules {
        Rules {
            size: 1 << 20,
            flags: ALL,
            minimum_block: 512,
            max_payload: 32 << 20,
            style: HeaderStyle::Structured,
            has_contexts: true,
        }
    }

    fn judge(rules: Rules, command: Command, flags: u16, offset: u64, length: u64) -> Verdict {
        let flags = CommandFlags::from_bits(flags);
        rules.judge(&Request {
            flags,
            command,
            cookie: Cookie(0),
            offset,
            length,
        })
    }

    fn read_only() -> Rules {
        Rules {
            flags: ALL.with(TransmissionFlags::READ_ONLY),
            ..rules()
        }
    }

    #[test]
    fn past_the_end_reads_get_einval_and_writes_enospc() {
        let past = |command| judge(rules(), command, 0, 1 << 20, 512);
        for command in [
            Command::Read,
            Command::Trim,
            Command::Cache,
            Command::BlockStatus,
        ] {
            assert_eq!(
                past(command),
                Verdict::Refuse(IoError::Invalid),
                "{command:?}"
            );
        }
        for command in [Command::Write, Command::WriteZeroes] {
            assert_eq!(
                past(command),
                Verdict::Refuse(IoError::NoSpace),
                "{command:?}"
            );
        }
        assert_eq!(
            judge(rules(), Command::Read, 0, u64::MAX - 511, 512),
            Verdict::Refuse(IoError::Invalid)
        );
    }

    #[test]
    fn a_read_only_export_must_error_all_write_operations() {
        for command in [Command::Write, Command::Trim, Command::WriteZeroes] {
            assert_eq!(
                judge(read_only(), command, 0, 0, 512),
                Verdict::Refuse(IoError::NotPermitted)
            );
        }
    }

    #[test]
    fn unaligned_requests_get_einval() {
        for command in [Command::Read, Command::Write] {
            assert_eq!(
                judge(rules(), command, 0, 100, 512),
                Verdict::Refuse(IoError::Invalid)
            );
            assert_eq!(
                judge(rules(), command, 0, 0, 100),
                Verdict::Refuse(IoError::Invalid)
            );
        }
    }

    #[test]
    fn unknown_commands_and_flags_get_einval() {
        assert_eq!(
            judge(rules(), Command::Unknown(9), 0, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
        assert_eq!(
            judge(rules(), Command::Read, 1 << 9, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
        assert_eq!(
            judge(rules(), Command::Read, 2, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
    }

    #[test]
    fn fua_must_be_accepted_on_every_command() {
        assert!(matches!(
            judge(rules(), Command::Read, 1, 0, 512),
            Verdict::Serve(_)
        ));
        assert_eq!(
            judge(rules(), Command::Flush, 1, 0, 0),
            Verdict::Serve(Operation::Flush)
        );
    }

    #[test]
    fn df_must_only_be_used_when_offered() {
        let plain = Rules {
            flags: ALL.without(TransmissionFlags::SEND_DF),
            ..rules()
        };
        assert_eq!(
            judge(plain, Command::Read, 4, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
        assert_eq!(
            judge(rules(), Command::Read, 4, 0, 512),
            Verdict::Serve(Operation::Read { whole: true })
        );
    }

    #[test]
    fn block_status_without_contexts_gets_einval() {
        let none = Rules {
            has_contexts: false,
            ..rules()
        };
        assert_eq!(
            judge(none, Command::BlockStatus, 0, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
    }

    #[test]
    fn extended_write_must_carry_the_payload_flag() {
        let extended = Rules {
            style: HeaderStyle::Extended,
            ..rules()
        };
        assert_eq!(
            judge(extended, Command::Write, 0, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
        assert_eq!(
            judge(extended, Command::Write, 32, 0, 512),
            Verdict::Serve(Operation::Write { fua: false })
        );
        assert_eq!(
            judge(extended, Command::Read, 32, 0, 512),
            Verdict::Refuse(IoError::Invalid)
        );
    }

    #[test]
    fn payloads_above_the_limit_are_skipped_or_end_the_connection() {
        let small = Rules {
            max_payload: 1 << 20,
            ..rules()
        };
        assert_eq!(
            judge(small, Command::Write, 0, 0, 2 << 20),
            Verdict::Refuse(IoError::Invalid)
        );
        assert_eq!(judge(small, Command::Write, 0, 0, 65 << 20), Verdict::Drop);
        let extended = Rules {
            style: HeaderStyle::Extended,
            ..small
        };
        assert_eq!(
            judge(extended, Command::Write, 32, 0, 2 << 20),
            Verdict::Drop
        );
    }

    #[test]
    fn flush_must_have_no_range() {
        assert_eq!(
            judge(rules(), Command::Flush, 0, 512, 0),
            Verdict::Refuse(IoError::Invalid)
        );
    }

    #[test]
    fn large_effect_lengths_without_payload_are_served() {
        let big = Rules {
            size: 1 << 40,
            style: HeaderStyle::Extended,
            ..rules()
        };
        assert!(matches!(
            judge(big, Command::WriteZeroes, 0, 0, 1 << 40),
            Verdict::Serve(_)
        ));
        assert!(matches!(
            judge(big, Command::BlockStatus, 0, 0, 1 << 40),
            Verdict::Serve(_)
        ));
    }

    #[test]
    fn a_status_filter_must_name_selected_contexts_once() {
        let context = |id| MetaContext {
            id: ContextId(id),
            name: "base:allocation".into(),
        };
        let selected = [context(1), context(2)];
        let payload = |ids: &[u32]| {
            let mut bytes = 512u64.to_be_bytes().to_vec();
            ids.iter().for_each(|id| bytes.extend(id.to_be_bytes()));
            bytes
        };
        assert_eq!(
            status_filter(&payload(&[2]), &selected),
            Some((512, vec![context(2)]))
        );
        assert_eq!(status_filter(&payload(&[2, 2]), &selected), None);
        assert_eq!(status_filter(&payload(&[3]), &selected), None);
        assert_eq!(status_filter(&payload(&[]), &selected), None);
        assert_eq!(status_filter(&[0; 7], &selected), None);
    }

    proptest! {
        #[test]
        fn what_is_served_lies_within_the_export(command in 0u16..12, flags: u16, offset: u64, length: u64, ext: bool) {
            let style = if ext { HeaderStyle::Extended } else { HeaderStyle::Structured };
            let command = Command::from_wire(command);
            let rules = Rules { style, ..rules() };
            let payload = flags & 32 != 0 && command == Command::BlockStatus;
            if let Verdict::Serve(_) = judge(rules, command, flags, offset, length) {
                prop_assert!(payload || offset.checked_add(length).unwrap() <= 1 << 20);
            }
        }
    }
}
