//! The client's side of the handshake: from the greeting to the transmission phase.

use crate::error::{Error, ErrorKind, OptionError, Result};
use crate::export::{BlockSizes, ExportName, MetaContext};
use crate::flags::TransmissionFlags;
use crate::numbers::*;
use crate::options::{self, InfoReply, InfoRequest, MetaRequest, ReplyHead};
use crate::wire::{Fields, Put};

/// Largest option reply that a client takes, in bytes. The longest the specification allows is a
/// string of 4096 with a few numbers before it; a description may follow a name.
const MAX_REPLY: u32 = 16 << 10;
/// Option replies that one handshake may bring, so that a server cannot keep a client busy for ever.
const MAX_REPLIES: u32 = 1024;
const GREETING: usize = 18;

/// Whether the client upgrades to TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientTls {
    /// Never; a server that insists is an error.
    #[default]
    Off,
    /// When the server offers it. Open to a downgrade by whoever sits in the middle.
    IfOffered,
    /// Always; a server without it is an error.
    Required,
}

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct ClientConfig {
    /// The export to open.
    pub export: ExportName,
    /// Whether to use TLS.
    pub tls: ClientTls,
    /// The richest headers that the client can read; the server may agree on less.
    /// Leave at `Simple` for a socket that is handed to Linux's client.
    pub headers: HeaderStyle,
    /// Metadata contexts to select, by name; needs more than simple headers.
    pub contexts: Vec<String>,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// Size of the export in bytes.
    pub size: u64,
    /// What the export can do.
    pub flags: TransmissionFlags,
    /// The server's block sizes, if it said any.
    pub block_sizes: Option<BlockSizes>,
    /// The headers to use from now on.
    pub headers: HeaderStyle,
    /// The selected metadata contexts.
    pub contexts: Vec<MetaContext>,
    /// The server's own name for the export, if it said one.
    pub canonical_name: Option<String>,
    /// The server's description, if it said one.
    pub description: Option<String>,
}

/// What the caller has to do after [`ClientHandshake::feed`].
#[derive(Debug, PartialEq, Eq)]
pub enum ClientStep {
    /// Send the output, receive more, feed it.
    More,
    /// Send the output (it is empty), do the TLS handshake on the socket, then call
    /// [`ClientHandshake::tls_established`] and send what that put out, encrypted.
    NeedTls,
    /// The transmission phase begins; not one byte of it has been received yet.
    Done(Box<Negotiated>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Greeting,
    Reply(OptionKind),
    ExportNameReply,
    AwaitTls,
    Over,
}

/// The client's handshake. Feed it what the socket gave; send what [`take_output`] returns.
///
/// [`take_output`]: ClientHandshake::take_output
///
/// ```
/// use nbd::{ClientConfig, ClientHandshake, ClientStep, ExportName};
/// let config = ClientConfig { export: ExportName::new("disk").unwrap(), ..Default::default() };
/// let mut handshake = ClientHandshake::new(config);
/// let step = handshake.feed(b"NBDMAGICIHAVEOPT\0\x03").unwrap();
/// assert_eq!(step, ClientStep::More);
/// assert!(!handshake.take_output().is_empty());
/// ```
#[derive(Debug)]
pub struct ClientHandshake {
    config: ClientConfig,
    state: State,
    input: Vec<u8>,
    output: Vec<u8>,
    replies: u32,
    no_zeroes: bool,
    secure: bool,
    headers: HeaderStyle,
    contexts: Vec<MetaContext>,
    export: Option<(u64, TransmissionFlags)>,
    block_sizes: Option<BlockSizes>,
    canonical_name: Option<String>,
    description: Option<String>,
}

impl ClientHandshake {
    /// A handshake that waits for the server's greeting.
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: State::Greeting,
            input: Vec::new(),
            output: Vec::new(),
            replies: 0,
            no_zeroes: false,
            secure: false,
            headers: HeaderStyle::Simple,
            contexts: Vec::new(),
            export: None,
            block_sizes: None,
            canonical_name: None,
            description: None,
        }
    }

    /// What has to be sent now. Empty when nothing has.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Takes received bytes, in pieces of any size.
    ///
    /// # Errors
    /// After an error the handshake is over; the connection should be closed.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<ClientStep> {
        self.input.extend_from_slice(bytes);
        let step = self.advance();
        if step.is_err() {
            self.state = State::Over;
        }
        step
    }

    /// Tells that the TLS handshake succeeded; the output holds the next option.
    pub fn tls_established(&mut self) {
        if self.state == State::AwaitTls {
            self.secure = true;
            self.after_tls();
        }
    }

    fn advance(&mut self) -> Result<ClientStep> {
        loop {
            match self.state {
                State::Greeting if self.input.len() >= GREETING => self.greeting()?,
                State::Reply(option) => {
                    let Some((head, data)) = self.next_reply()? else {
                        return Ok(ClientStep::More);
                    };
                    if head.option != option {
                        return Err(Error::protocol(
                            "the server answers an option that was not sent",
                        ));
                    }
                    if let Some(step) = self.reply(option, head.reply_type, &data)? {
                        return self.nothing_left().map(|()| step);
                    }
                }
                State::ExportNameReply if self.input.len() >= self.export_name_reply_len() => {
                    self.export_name_reply()?;
                    return self.nothing_left().map(|()| self.done());
                }
                State::Greeting | State::ExportNameReply => return Ok(ClientStep::More),
                State::AwaitTls => return self.nothing_left().map(|()| ClientStep::NeedTls),
                State::Over => return Err(Error::protocol("the handshake is over")),
            }
        }
    }

    /// A server has no reason to send anything before TLS or before the first request. What comes
    /// in plain before TLS must not be taken for what came through it.
    fn nothing_left(&self) -> Result<()> {
        if self.input.is_empty() {
            return Ok(());
        }
        Err(Error::protocol(
            "the server sent more than the handshake calls for",
        ))
    }

    fn greeting(&mut self) -> Result<()> {
        let greeting: Vec<u8> = self.input.drain(..GREETING).collect();
        let mut fields = Fields::new(&greeting);
        if fields.u64()? != INIT_MAGIC {
            return Err(Error::new(
                ErrorKind::NotNbd,
                "the server does not speak NBD",
            ));
        }
        match fields.u64()? {
            OPTION_MAGIC => {}
            OLDSTYLE_MAGIC => {
                let text = "the server only speaks the oldstyle NBD handshake";
                return Err(Error::new(ErrorKind::NotNbd, text));
            }
            _ => {
                return Err(Error::new(
                    ErrorKind::NotNbd,
                    "the server speaks an unknown NBD handshake",
                ));
            }
        }
        let flags = fields.u16()?;
        self.no_zeroes = flags & HANDSHAKE_NO_ZEROES != 0;
        let fixed = flags & HANDSHAKE_FIXED_NEWSTYLE != 0;
        let answer = if fixed { CLIENT_FIXED_NEWSTYLE } else { 0 }
            | if self.no_zeroes { CLIENT_NO_ZEROES } else { 0 };
        self.output.put_u32(answer);
        self.first_option(fixed)
    }

    fn first_option(&mut self, fixed: bool) -> Result<()> {
        match (fixed, self.config.tls) {
            (true, ClientTls::Off) => self.after_tls(),
            (true, _) => self.send(OptionKind::StartTls, &[]),
            (false, ClientTls::Required) => {
                return Err(no_tls(
                    "the server only speaks the first newstyle handshake",
                ));
            }
            (false, _) => self.send_export_name(),
        }
        Ok(())
    }

    fn send(&mut self, option: OptionKind, data: &[u8]) {
        options::put_option(&mut self.output, option, data);
        self.state = State::Reply(option);
    }

    fn send_export_name(&mut self) {
        let name = self.config.export.as_str().to_owned();
        options::put_option(&mut self.output, OptionKind::ExportName, name.as_bytes());
        self.state = State::ExportNameReply;
    }

    fn after_tls(&mut self) {
        match self.config.headers {
            HeaderStyle::Simple => self.send_go(),
            HeaderStyle::Structured => self.send(OptionKind::StructuredReply, &[]),
            HeaderStyle::Extended => self.send(OptionKind::ExtendedHeaders, &[]),
        }
    }

    fn after_headers(&mut self) {
        if self.headers == HeaderStyle::Simple || self.config.contexts.is_empty() {
            return self.send_go();
        }
        let data = MetaRequest::encode(&self.config.export, &self.config.contexts);
        self.send(OptionKind::SetMetaContext, &data);
    }

    fn send_go(&mut self) {
        let infos = [INFO_BLOCK_SIZE, INFO_NAME, INFO_DESCRIPTION];
        let data = InfoRequest::encode(&self.config.export, &infos);
        self.send(OptionKind::Go, &data);
    }

    fn next_reply(&mut self) -> Result<Option<(ReplyHead, Vec<u8>)>> {
        if self.input.len() < options::REPLY_HEAD {
            return Ok(None);
        }
        let head = ReplyHead::parse(&self.input)?;
        if head.length > MAX_REPLY {
            return Err(Error::new(
                ErrorKind::Limit,
                "an option reply is unreasonably long",
            ));
        }
        let total = options::REPLY_HEAD + head.length as usize;
        if self.input.len() < total {
            return Ok(None);
        }
        self.replies += 1;
        if self.replies > MAX_REPLIES {
            return Err(Error::new(
                ErrorKind::Limit,
                "the server sends option replies without end",
            ));
        }
        let data = self.input[options::REPLY_HEAD..total].to_vec();
        self.input.drain(..total);
        Ok(Some((head, data)))
    }

    /// Handles one reply; `Some` when the caller has to act.
    fn reply(
        &mut self,
        option: OptionKind,
        reply_type: u32,
        data: &[u8],
    ) -> Result<Option<ClientStep>> {
        if let Some(error) = OptionError::from_wire(reply_type) {
            return self.refused(option, error, data).map(|()| None);
        }
        match (option, reply_type) {
            (OptionKind::StartTls, REP_ACK) => {
                self.state = State::AwaitTls;
                return Ok(Some(ClientStep::NeedTls));
            }
            (OptionKind::StructuredReply, REP_ACK) => self.agreed(HeaderStyle::Structured),
            (OptionKind::ExtendedHeaders, REP_ACK) => self.agreed(HeaderStyle::Extended),
            (OptionKind::SetMetaContext, REP_META_CONTEXT) => self.context(data)?,
            (OptionKind::SetMetaContext, REP_ACK) => self.send_go(),
            (OptionKind::Go, REP_INFO) => self.info(data)?,
            (OptionKind::Go, REP_ACK) if self.export.is_some() => return Ok(Some(self.done())),
            (OptionKind::Go, REP_ACK) => {
                return Err(Error::protocol(
                    "the server accepts the export without saying its size",
                ));
            }
            _ => {
                return Err(Error::protocol(format!(
                    "unexpected option reply {reply_type}"
                )));
            }
        }
        Ok(None)
    }

    fn agreed(&mut self, headers: HeaderStyle) {
        self.headers = headers;
        self.after_headers();
    }

    fn context(&mut self, data: &[u8]) -> Result<()> {
        let (id, name) = options::parse_context(data)?;
        self.contexts.push(MetaContext { id, name });
        Ok(())
    }

    fn info(&mut self, data: &[u8]) -> Result<()> {
        match InfoReply::parse(data)? {
            InfoReply::Export { size, flags } => self.export = Some((size, flags)),
            InfoReply::Name(name) => self.canonical_name = Some(name),
            InfoReply::Description(text) => self.description = Some(text),
            InfoReply::BlockSize(sizes) => self.block_sizes = Some(sizes),
            InfoReply::Unknown => {}
        }
        Ok(())
    }

    /// An error reply: for options that the client can do without, goes on to the next.
    fn refused(&mut self, option: OptionKind, error: OptionError, data: &[u8]) -> Result<()> {
        let fatal = matches!(error, OptionError::Shutdown | OptionError::TlsRequired);
        match option {
            OptionKind::StartTls if self.config.tls == ClientTls::IfOffered && !fatal => {
                self.after_tls()
            }
            OptionKind::ExtendedHeaders if !fatal => self.send(OptionKind::StructuredReply, &[]),
            OptionKind::StructuredReply if !fatal => self.after_headers(),
            OptionKind::SetMetaContext if !fatal => {
                self.contexts.clear();
                self.send_go();
            }
            OptionKind::Go
                if error == OptionError::Unsupported && self.headers != HeaderStyle::Extended =>
            {
                self.send_export_name();
            }
            _ => return Err(self.refusal(option, error, data)),
        }
        Ok(())
    }

    fn refusal(&self, option: OptionKind, error: OptionError, data: &[u8]) -> Error {
        let said = String::from_utf8_lossy(&data[..data.len().min(crate::MAX_STRING)]);
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        };
        if option == OptionKind::StartTls {
            return no_tls(&format!("{}{said}", error.describe()));
        }
        let kind = match error {
            OptionError::TlsRequired if !self.secure => ErrorKind::TlsRequired,
            other => ErrorKind::Refused(other),
        };
        let name = self.config.export.as_str();
        Error::new(
            kind,
            format!(
                "the server refuses export {name:?}: {}{said}",
                error.describe()
            ),
        )
    }

    fn export_name_reply_len(&self) -> usize {
        10 + if self.no_zeroes {
            0
        } else {
            EXPORT_NAME_PADDING
        }
    }

    fn export_name_reply(&mut self) -> Result<()> {
        let total = self.export_name_reply_len();
        let mut fields = Fields::new(&self.input);
        self.export = Some((fields.u64()?, TransmissionFlags::from_bits(fields.u16()?)));
        self.input.drain(..total);
        Ok(())
    }

    fn done(&mut self) -> ClientStep {
        self.state = State::Over;
        let (size, flags) = self.export.unwrap_or_default();
        ClientStep::Done(Box::new(Negotiated {
            size,
            flags,
            block_sizes: self.block_sizes,
            headers: self.headers,
            contexts: std::mem::take(&mut self.contexts),
            canonical_name: self.canonical_name.take(),
            description: self.description.take(),
        }))
    }
}

fn no_tls(why: &str) -> Error {
    Error::new(
        ErrorKind::TlsUnavailable,
        format!("TLS is required and the server does not offer it: {why}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greeting(flags: u16) -> Vec<u8> {
        let mut bytes = b"NBDMAGICIHAVEOPT".to_vec();
        bytes.put_u16(flags);
        bytes
    }

    fn client(tls: ClientTls, headers: HeaderStyle) -> ClientHandshake {
        let export = ExportName::new("disk").unwrap();
        ClientHandshake::new(ClientConfig {
            export,
            tls,
            headers,
            contexts: vec!["base:allocation".into()],
        })
    }

    fn reply(option: OptionKind, reply_type: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        options::put_reply(&mut bytes, option, reply_type, data);
        bytes
    }

    fn export_info(size: u64) -> Vec<u8> {
        let mut data = vec![0, 0];
        data.put_u64(size);
        data.put_u16(0x0001);
        reply(OptionKind::Go, REP_INFO, &data)
    }

    fn error_of(result: Result<ClientStep>) -> ErrorKind {
        result.unwrap_err().kind()
    }

    #[test]
    fn go_without_extras_reaches_transmission_byte_by_byte() {
        let mut client = client(ClientTls::Off, HeaderStyle::Simple);
        let mut bytes = greeting(3);
        bytes.extend(export_info(1 << 30));
        bytes.extend(reply(OptionKind::Go, REP_ACK, &[]));
        let last = bytes.pop().unwrap();
        for byte in bytes {
            assert_eq!(client.feed(&[byte]).unwrap(), ClientStep::More);
        }
        let ClientStep::Done(agreed) = client.feed(&[last]).unwrap() else {
            panic!("not done")
        };
        assert_eq!(
            (agreed.size, agreed.headers),
            (1 << 30, HeaderStyle::Simple)
        );
    }

    #[test]
    fn no_zeroes_must_not_be_set_unless_the_server_set_it() {
        let mut client = client(ClientTls::Off, HeaderStyle::Simple);
        client.feed(&greeting(1)).unwrap();
        assert_eq!(&client.take_output()[..4], &[0, 0, 0, 1]);
    }

    #[test]
    fn oldstyle_servers_are_named_as_such() {
        let mut client = client(ClientTls::Off, HeaderStyle::Simple);
        let mut bytes = b"NBDMAGIC".to_vec();
        bytes.put_u64(OLDSTYLE_MAGIC);
        bytes.put_u16(0);
        assert_eq!(error_of(client.feed(&bytes)), ErrorKind::NotNbd);
    }

    #[test]
    fn required_tls_ends_the_session_when_refused() {
        let mut client = client(ClientTls::Required, HeaderStyle::Simple);
        client.feed(&greeting(3)).unwrap();
        let refusal = reply(
            OptionKind::StartTls,
            OptionError::Policy.to_wire(),
            b"not today",
        );
        let error = client.feed(&refusal).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TlsUnavailable);
        assert!(error.to_string().contains("not today"));
    }

    #[test]
    fn bytes_smuggled_in_before_tls_are_an_error() {
        let mut client = client(ClientTls::Required, HeaderStyle::Simple);
        client.feed(&greeting(3)).unwrap();
        let mut bytes = reply(OptionKind::StartTls, REP_ACK, &[]);
        bytes.extend(export_info(4096));
        assert_eq!(error_of(client.feed(&bytes)), ErrorKind::Protocol);
    }

    #[test]
    fn after_tls_the_client_goes_on_with_go() {
        let mut client = client(ClientTls::Required, HeaderStyle::Simple);
        client.feed(&greeting(3)).unwrap();
        client.take_output();
        assert_eq!(
            client
                .feed(&reply(OptionKind::StartTls, REP_ACK, &[]))
                .unwrap(),
            ClientStep::NeedTls
        );
        client.tls_established();
        let (option, _) = options::option_head(&client.take_output()).unwrap();
        assert_eq!(option, OptionKind::Go);
    }

    #[test]
    fn unsupported_headers_fall_back_step_by_step() {
        let mut client = client(ClientTls::Off, HeaderStyle::Extended);
        client.feed(&greeting(3)).unwrap();
        let unsupported = OptionError::Unsupported.to_wire();
        client
            .feed(&reply(OptionKind::ExtendedHeaders, unsupported, &[]))
            .unwrap();
        client
            .feed(&reply(OptionKind::StructuredReply, unsupported, &[]))
            .unwrap();
        client.take_output();
        client
            .feed(&reply(OptionKind::Go, unsupported, &[]))
            .unwrap();
        let (option, _) = options::option_head(&client.take_output()).unwrap();
        assert_eq!(option, OptionKind::ExportName);
        let mut answer = 4096u64.to_be_bytes().to_vec();
        answer.put_u16(3);
        let ClientStep::Done(agreed) = client.feed(&answer).unwrap() else {
            panic!("not done")
        };
        assert_eq!(agreed.size, 4096);
    }

    #[test]
    fn a_refusal_carries_the_servers_words() {
        let mut client = client(ClientTls::Off, HeaderStyle::Simple);
        client.feed(&greeting(3)).unwrap();
        let refusal = reply(
            OptionKind::Go,
            OptionError::Unknown.to_wire(),
            b"token is old",
        );
        let error = client.feed(&refusal).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused(OptionError::Unknown));
        assert!(error.to_string().contains("token is old"));
    }

    #[test]
    fn an_endless_or_huge_reply_is_an_error() {
        let mut first = client(ClientTls::Off, HeaderStyle::Simple);
        first.feed(&greeting(3)).unwrap();
        let mut head = reply(OptionKind::Go, REP_INFO, &[]);
        head[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(error_of(first.feed(&head)), ErrorKind::Limit);
        let mut second = client(ClientTls::Off, HeaderStyle::Simple);
        second.feed(&greeting(3)).unwrap();
        let endless: Vec<u8> = (0..2000).flat_map(|_| export_info(1)).collect();
        assert_eq!(error_of(second.feed(&endless)), ErrorKind::Limit);
    }
}
