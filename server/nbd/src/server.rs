//! The server's side of the handshake: from the greeting to the transmission phase.

use crate::error::{Error, ErrorKind, OptionError, Result};
use crate::export::{ExportInfo, MetaContext};
use crate::flags::TransmissionFlags;
use crate::numbers::*;
use crate::options;
use crate::wire::{Fields, Put};

/// What a client wants to know an export for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It only asks (INFO, metadata contexts). Nothing may change.
    Describe,
    /// It goes on to the transmission phase when this succeeds.
    Open,
}

/// Why an export is not given out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What goes on the wire.
    pub error: OptionError,
    /// What the person at the other end reads.
    pub message: String,
}

impl Refusal {
    /// A refusal with a message for people.
    pub fn new(error: OptionError, message: impl Into<String>) -> Self {
        Self {
            error,
            message: message.into(),
        }
    }

    /// There is no such export, or this client may not know of it.
    pub fn unknown() -> Self {
        Self::new(OptionError::Unknown, "no such export")
    }
}

/// Where the handshake learns about exports.
pub trait Directory {
    /// Names and descriptions of the exports that this client may open.
    fn list(&mut self) -> std::result::Result<Vec<(String, Option<String>)>, Refusal>;

    /// Describes the export, and with [`Purpose::Open`] opens it.
    fn lookup(&mut self, name: &str, purpose: Purpose) -> std::result::Result<ExportInfo, Refusal>;
}

/// Whether clients use TLS ("Server-side requirements").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsPolicy {
    /// Not offered (NOTLS).
    #[default]
    Off,
    /// Offered; single exports may insist on it, by refusing with
    /// [`OptionError::TlsRequired`] (SELECTIVETLS).
    Offered,
    /// Nothing goes without (FORCEDTLS).
    Required,
}

/// Bounds on what one handshake may cost.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Options in all.
    pub options: u32,
    /// Largest option data that is looked at, in bytes; longer data is skipped and answered with
    /// TOO_BIG.
    pub option_data: u32,
    /// Largest option data that is skipped; beyond, the connection ends. In bytes.
    pub skipped_data: u32,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            options: 64,
            option_data: 32 << 10,
            skipped_data: 1 << 20,
        }
    }
}

/// What the caller has to do after [`ServerHandshake::feed`]. The output is sent first in each case.
#[derive(Debug)]
pub enum ServerStep {
    /// Receive more.
    More,
    /// Do the TLS handshake, then call [`ServerHandshake::tls_established`].
    StartTls,
    /// Close: the client said goodbye.
    Close,
    /// The transmission phase begins. What was received of it already is in
    /// [`ServerHandshake::take_leftover`].
    Transmission(Box<Session>),
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The name that the client asked for.
    pub name: String,
    /// What was said of the export, flags as sent.
    pub info: ExportInfo,
    /// The headers to use.
    pub style: HeaderStyle,
    /// The selected metadata contexts.
    pub contexts: Vec<MetaContext>,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    ClientFlags,
    Options,
    Skip { option: OptionKind, rest: u32 },
    AwaitTls,
    Over,
}

/// The contexts that a client selected, and the export it selected them for.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    pub export: String,
    pub contexts: Vec<MetaContext>,
}

/// The server's handshake. Send [`take_output`] first: it holds the greeting.
///
/// [`take_output`]: ServerHandshake::take_output
#[derive(Debug)]
pub struct ServerHandshake {
    policy: TlsPolicy,
    limits: ServerLimits,
    state: State,
    input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    options: u32,
    fixed: bool,
    pub(crate) no_zeroes: bool,
    pub(crate) secure: bool,
    pub(crate) style: HeaderStyle,
    pub(crate) selection: Selection,
    shutdown: bool,
}

impl ServerHandshake {
    /// A handshake whose output begins with the greeting.
    pub fn new(policy: TlsPolicy, limits: ServerLimits) -> Self {
        let mut output = Vec::with_capacity(64);
        output.put_u64(INIT_MAGIC);
        output.put_u64(OPTION_MAGIC);
        output.put_u16(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES);
        Self {
            policy,
            limits,
            state: State::ClientFlags,
            input: Vec::new(),
            output,
            options: 0,
            fixed: false,
            no_zeroes: false,
            secure: false,
            style: HeaderStyle::Simple,
            selection: Selection::default(),
            shutdown: false,
        }
    }

    /// What has to be sent now.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Bytes received beyond the handshake: the first requests of the transmission phase.
    pub fn take_leftover(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    /// From now on every option but ABORT is answered with ERR_SHUTDOWN.
    pub fn shut_down(&mut self) {
        self.shutdown = true;
    }

    /// Tells that the TLS handshake succeeded. What was negotiated before is forgotten.
    pub fn tls_established(&mut self) {
        if self.state == State::AwaitTls {
            self.secure = true;
            self.style = HeaderStyle::Simple;
            self.selection = Selection::default();
            self.state = State::Options;
        }
    }

    /// Takes received bytes, in pieces of any size, and answers the options in them.
    ///
    /// # Errors
    /// The client broke a rule, or asked by EXPORT_NAME for what it cannot have: close the connection.
    pub fn feed(&mut self, bytes: &[u8], directory: &mut dyn Directory) -> Result<ServerStep> {
        self.input.extend_from_slice(bytes);
        let step = self.advance(directory);
        if step.is_err() {
            self.state = State::Over;
        }
        step
    }

    fn advance(&mut self, directory: &mut dyn Directory) -> Result<ServerStep> {
        loop {
            match self.state {
                State::ClientFlags if self.input.len() >= 4 => self.client_flags()?,
                State::ClientFlags => return Ok(ServerStep::More),
                State::Options => {
                    let Some((option, data)) = self.next_option()? else {
                        return Ok(ServerStep::More);
                    };
                    if let Some(step) = self.option(option, &data, directory)? {
                        return Ok(step);
                    }
                }
                State::Skip { option, rest } => {
                    if !self.skip(option, rest) {
                        return Ok(ServerStep::More);
                    }
                }
                State::AwaitTls | State::Over => {
                    return Err(Error::protocol(
                        "the client goes on where the handshake has ended",
                    ));
                }
            }
        }
    }

    fn client_flags(&mut self) -> Result<()> {
        let flags = Fields::new(&self.input).u32()?;
        self.input.drain(..4);
        if flags & !(CLIENT_FIXED_NEWSTYLE | CLIENT_NO_ZEROES) != 0 {
            return Err(Error::protocol(format!("unknown client flags {flags:#x}")));
        }
        self.fixed = flags & CLIENT_FIXED_NEWSTYLE != 0;
        self.no_zeroes = flags & CLIENT_NO_ZEROES != 0;
        self.state = State::Options;
        Ok(())
    }

    fn next_option(&mut self) -> Result<Option<(OptionKind, Vec<u8>)>> {
        if self.input.len() < options::OPTION_HEAD {
            return Ok(None);
        }
        let (option, length) = options::option_head(&self.input)?;
        if length > self.limits.option_data {
            return self
                .too_long(option, length)
                .map(|()| Some((OptionKind::Unknown(0), Vec::new())));
        }
        let total = options::OPTION_HEAD + length as usize;
        if self.input.len() < total {
            return Ok(None);
        }
        self.count_option()?;
        let data = self.input[options::OPTION_HEAD..total].to_vec();
        self.input.drain(..total);
        Ok(Some((option, data)))
    }

    fn count_option(&mut self) -> Result<()> {
        self.options += 1;
        if self.options > self.limits.options {
            let text = format!("more than {} options in one handshake", self.limits.options);
            return Err(Error::new(ErrorKind::Limit, text));
        }
        Ok(())
    }

    fn too_long(&mut self, option: OptionKind, length: u32) -> Result<()> {
        self.count_option()?;
        if length > self.limits.skipped_data || option == OptionKind::ExportName || !self.fixed {
            let text = format!("an option with {length} bytes of data");
            return Err(Error::new(ErrorKind::Limit, text));
        }
        self.input.drain(..options::OPTION_HEAD);
        self.state = State::Skip {
            option,
            rest: length,
        };
        Ok(())
    }

    /// Throws away what came of an overlong option; true once all of it has come.
    fn skip(&mut self, option: OptionKind, rest: u32) -> bool {
        let gone = self.input.len().min(rest as usize);
        self.input.drain(..gone);
        let rest = rest - gone as u32;
        self.state = State::Skip { option, rest };
        if rest > 0 {
            return false;
        }
        self.state = State::Options;
        let error = if self.wants_tls_first(option) {
            OptionError::TlsRequired
        } else {
            OptionError::TooBig
        };
        self.refuse(option, error, "more data than this option can need");
        true
    }

    pub(crate) fn refuse(&mut self, option: OptionKind, error: OptionError, text: &str) {
        options::put_error(&mut self.output, option, error, text);
    }

    /// Whether the client could still go over to TLS.
    pub(crate) fn may_start_tls(&self) -> bool {
        self.policy != TlsPolicy::Off && !self.secure
    }

    fn wants_tls_first(&self, option: OptionKind) -> bool {
        let exempt = matches!(option, OptionKind::StartTls | OptionKind::Abort);
        self.policy == TlsPolicy::Required && !self.secure && !exempt
    }

    /// Answers one option; `Some` when the caller has to act.
    fn option(
        &mut self,
        option: OptionKind,
        data: &[u8],
        directory: &mut dyn Directory,
    ) -> Result<Option<ServerStep>> {
        if matches!(self.state, State::Skip { .. }) {
            return Ok(None);
        }
        if !self.fixed && option != OptionKind::ExportName {
            return Err(Error::protocol(
                "options without the fixed newstyle handshake",
            ));
        }
        if option == OptionKind::ExportName {
            return self.export_name(data, directory).map(Some);
        }
        if option == OptionKind::Abort {
            self.state = State::Over;
            self.acknowledge(option);
            return Ok(Some(ServerStep::Close));
        }
        if self.wants_tls_first(option) {
            self.refuse(option, OptionError::TlsRequired, "this server requires TLS");
        } else if self.shutdown {
            self.refuse(option, OptionError::Shutdown, "the server is shutting down");
        } else if option == OptionKind::StartTls {
            return Ok(self.start_tls(data));
        } else if let Some(session) = self.answer(option, data, directory) {
            self.state = State::Over;
            return Ok(Some(ServerStep::Transmission(Box::new(session))));
        }
        Ok(None)
    }

    pub(crate) fn acknowledge(&mut self, option: OptionKind) {
        options::put_reply(&mut self.output, option, REP_ACK, &[]);
    }

    fn start_tls(&mut self, data: &[u8]) -> Option<ServerStep> {
        let option = OptionKind::StartTls;
        if !data.is_empty() {
            self.refuse(option, OptionError::Invalid, "STARTTLS takes no data");
        } else if self.secure {
            self.refuse(option, OptionError::Invalid, "TLS is in use already");
        } else if self.policy == TlsPolicy::Off {
            self.refuse(
                option,
                OptionError::Policy,
                "TLS is not configured on this server",
            );
        } else {
            self.acknowledge(option);
            // Whatever came behind STARTTLS in plain text might be an injection: only a TLS record
            // may follow, and the TLS library gets it as leftover.
            self.state = State::AwaitTls;
            return Some(ServerStep::StartTls);
        }
        None
    }

    fn export_name(&mut self, data: &[u8], directory: &mut dyn Directory) -> Result<ServerStep> {
        if self.wants_tls_first(OptionKind::ExportName) || self.shutdown {
            return Err(Error::protocol(
                "EXPORT_NAME without the TLS that this server requires",
            ));
        }
        if self.style == HeaderStyle::Extended {
            return Err(Error::protocol("EXPORT_NAME after extended headers"));
        }
        let name = crate::wire::string(data)?;
        let info = directory
            .lookup(name, Purpose::Open)
            .map_err(|refusal| Error::new(ErrorKind::Refused(refusal.error), refusal.message))?;
        let session = self.session(name, info);
        self.output.put_u64(session.info.size);
        self.output.put_u16(session.info.flags.bits());
        if !self.no_zeroes {
            self.output.put(&[0; EXPORT_NAME_PADDING]);
        }
        self.state = State::Over;
        Ok(ServerStep::Transmission(Box::new(session)))
    }

    /// Settles the flags that depend on the agreed headers.
    pub(crate) fn session(&mut self, name: &str, mut info: ExportInfo) -> Session {
        info.flags = self.flags_for(name, info.flags);
        let contexts = match self.selection.export == name {
            true => std::mem::take(&mut self.selection.contexts),
            false => Vec::new(),
        };
        Session {
            name: name.to_owned(),
            info,
            style: self.style,
            contexts,
        }
    }

    pub(crate) fn flags_for(&self, name: &str, flags: TransmissionFlags) -> TransmissionFlags {
        let extended = self.style == HeaderStyle::Extended;
        let filters =
            extended && self.selection.export == name && !self.selection.contexts.is_empty();
        let zeroes = flags.contains(TransmissionFlags::SEND_WRITE_ZEROES);
        let fast = flags.contains(TransmissionFlags::SEND_FAST_ZERO);
        flags
            .without(TransmissionFlags::SEND_DF.with(TransmissionFlags::BLOCK_STATUS_PAYLOAD))
            .without(TransmissionFlags::SEND_FAST_ZERO)
            .with_if(TransmissionFlags::SEND_FAST_ZERO, fast && zeroes)
            .with(TransmissionFlags::HAS_FLAGS)
            .with_if(
                TransmissionFlags::SEND_DF,
                self.style != HeaderStyle::Simple,
            )
            .with_if(TransmissionFlags::BLOCK_STATUS_PAYLOAD, filters)
    }
}

#[cfg(test)]
mod tests;
