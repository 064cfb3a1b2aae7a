//! Bodies of options and option replies, both directions.

use crate::error::{Error, OptionError, Result};
use crate::export::{BlockSizes, ContextId, ExportInfo, ExportName};
use crate::flags::TransmissionFlags;
use crate::numbers::*;
use crate::wire::{self, Fields, Put};

/// The fixed head of an option: magic, number, length.
pub(crate) const OPTION_HEAD: usize = 16;
/// The fixed head of an option reply: magic, option, type, length.
pub(crate) const REPLY_HEAD: usize = 20;

/// Appends an option with its data.
pub(crate) fn put_option(out: &mut Vec<u8>, option: OptionKind, data: &[u8]) {
    out.put_u64(OPTION_MAGIC);
    out.put_u32(option.to_wire());
    out.put_u32(data.len() as u32);
    out.put(data);
}

/// Reads an option's head: its number and the length of its data.
pub(crate) fn option_head(bytes: &[u8]) -> Result<(OptionKind, u32)> {
    let mut fields = Fields::new(bytes);
    if fields.u64()? != OPTION_MAGIC {
        return Err(Error::protocol(
            "an option does not begin with its magic number",
        ));
    }
    Ok((OptionKind::from_wire(fields.u32()?), fields.u32()?))
}

/// Appends a reply to `option`.
pub(crate) fn put_reply(out: &mut Vec<u8>, option: OptionKind, reply_type: u32, data: &[u8]) {
    out.put_u64(OPTION_REPLY_MAGIC);
    out.put_u32(option.to_wire());
    out.put_u32(reply_type);
    out.put_u32(data.len() as u32);
    out.put(data);
}

/// Appends an error reply with a message for people.
pub(crate) fn put_error(out: &mut Vec<u8>, option: OptionKind, error: OptionError, text: &str) {
    let text = wire::clip(text, crate::MAX_STRING);
    put_reply(out, option, error.to_wire(), text.as_bytes());
}

/// The head of an option reply.
pub(crate) struct ReplyHead {
    pub option: OptionKind,
    pub reply_type: u32,
    pub length: u32,
}

impl ReplyHead {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(bytes);
        if fields.u64()? != OPTION_REPLY_MAGIC {
            return Err(Error::protocol(
                "an option reply does not begin with its magic number",
            ));
        }
        Ok(Self {
            option: OptionKind::from_wire(fields.u32()?),
            reply_type: fields.u32()?,
            length: fields.u32()?,
        })
    }
}

/// Data of INFO and GO.
pub(crate) struct InfoRequest<'a> {
    pub name: &'a str,
    pub wants_name: bool,
    pub wants_description: bool,
    pub wants_block_size: bool,
}

impl<'a> InfoRequest<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let mut request = Self {
            name: fields.counted_string()?,
            wants_name: false,
            wants_description: false,
            wants_block_size: false,
        };
        for _ in 0..fields.u16()? {
            match fields.u16()? {
                INFO_NAME => request.wants_name = true,
                INFO_DESCRIPTION => request.wants_description = true,
                INFO_BLOCK_SIZE => request.wants_block_size = true,
                _ => {}
            }
        }
        fields.finish()?;
        Ok(request)
    }

    /// The data of a client's INFO or GO that asks for `infos`.
    pub(crate) fn encode(name: &ExportName, infos: &[u16]) -> Vec<u8> {
        let mut data = Vec::with_capacity(6 + name.as_str().len() + 2 * infos.len());
        data.put_counted(name.as_str());
        data.put_u16(infos.len() as u16);
        for info in infos {
            data.put_u16(*info);
        }
        data
    }
}

/// Data of LIST_META_CONTEXT and SET_META_CONTEXT.
pub(crate) struct MetaRequest<'a> {
    pub name: &'a str,
    pub queries: Vec<&'a str>,
}

impl<'a> MetaRequest<'a> {
    pub(crate) fn parse(data: &'a [u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let name = fields.counted_string()?;
        let count = fields.u32()? as usize;
        // Each query takes at least its length field, so that the count cannot ask for more than came.
        if count > fields.remaining() / 4 {
            return Err(Error::protocol("more metadata queries announced than sent"));
        }
        let queries = (0..count)
            .map(|_| fields.counted_string())
            .collect::<Result<_>>()?;
        fields.finish()?;
        Ok(Self { name, queries })
    }

    pub(crate) fn encode(name: &ExportName, queries: &[String]) -> Vec<u8> {
        let mut data = Vec::new();
        data.put_counted(name.as_str());
        data.put_u32(queries.len() as u32);
        for query in queries {
            data.put_counted(query);
        }
        data
    }
}

/// One REP_INFO, as a client sees it.
pub(crate) enum InfoReply {
    Export { size: u64, flags: TransmissionFlags },
    Name(String),
    Description(String),
    BlockSize(BlockSizes),
    Unknown,
}

impl InfoReply {
    pub(crate) fn parse(data: &[u8]) -> Result<Self> {
        let mut fields = Fields::new(data);
        let reply = match fields.u16()? {
            INFO_EXPORT => Self::Export {
                size: fields.u64()?,
                flags: TransmissionFlags::from_bits(fields.u16()?),
            },
            INFO_NAME => return Ok(Self::Name(wire::string(fields.rest())?.to_owned())),
            INFO_DESCRIPTION => {
                return Ok(Self::Description(wire::string(fields.rest())?.to_owned()));
            }
            INFO_BLOCK_SIZE => Self::BlockSize(BlockSizes::new(
                fields.u32()?,
                fields.u32()?,
                fields.u32()?,
            )?),
            _ => return Ok(Self::Unknown),
        };
        fields.finish()?;
        Ok(reply)
    }
}

/// Appends the REP_INFO messages that answer `request`, without the final ACK.
pub(crate) fn put_infos(
    out: &mut Vec<u8>,
    option: OptionKind,
    request: &InfoRequest<'_>,
    info: &ExportInfo,
) {
    let mut export = Vec::with_capacity(12);
    export.put_u16(INFO_EXPORT);
    export.put_u64(info.size);
    export.put_u16(info.flags.bits());
    put_reply(out, option, REP_INFO, &export);
    if request.wants_name {
        put_text_info(
            out,
            option,
            INFO_NAME,
            info.canonical_name.as_deref().or(Some(request.name)),
        );
    }
    if request.wants_description {
        put_text_info(out, option, INFO_DESCRIPTION, info.description.as_deref());
    }
    // Said even when not asked for: a client that ignores it loses nothing, one that reads it aligns.
    put_block_size(out, option, info.block_sizes);
}

pub(crate) fn put_block_size(out: &mut Vec<u8>, option: OptionKind, sizes: BlockSizes) {
    let mut data = Vec::with_capacity(14);
    data.put_u16(INFO_BLOCK_SIZE);
    data.put_u32(sizes.minimum());
    data.put_u32(sizes.preferred());
    data.put_u32(sizes.maximum());
    put_reply(out, option, REP_INFO, &data);
}

fn put_text_info(out: &mut Vec<u8>, option: OptionKind, kind: u16, text: Option<&str>) {
    let Some(text) = text else { return };
    let mut data = Vec::with_capacity(2 + text.len());
    data.put_u16(kind);
    data.put(wire::clip(text, crate::MAX_STRING).as_bytes());
    put_reply(out, option, REP_INFO, &data);
}

/// Appends one REP_SERVER.
pub(crate) fn put_server(out: &mut Vec<u8>, name: &str, description: Option<&str>) {
    let mut data = Vec::new();
    data.put_counted(wire::clip(name, crate::MAX_STRING));
    data.put(wire::clip(description.unwrap_or(""), crate::MAX_STRING).as_bytes());
    put_reply(out, OptionKind::List, REP_SERVER, &data);
}

/// Appends one REP_META_CONTEXT.
pub(crate) fn put_context(out: &mut Vec<u8>, option: OptionKind, id: ContextId, name: &str) {
    let mut data = Vec::with_capacity(4 + name.len());
    data.put_u32(id.0);
    data.put(name.as_bytes());
    put_reply(out, option, REP_META_CONTEXT, &data);
}

/// Reads one REP_META_CONTEXT.
pub(crate) fn parse_context(data: &[u8]) -> Result<(ContextId, String)> {
    let mut fields = Fields::new(data);
    let id = ContextId(fields.u32()?);
    Ok((id, wire::string(fields.rest())?.to_owned()))
}
