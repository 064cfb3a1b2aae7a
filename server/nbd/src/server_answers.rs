//! The server's answers to LIST, INFO, GO, the header styles and metadata contexts.

use crate::error::OptionError;
use crate::export::{ContextId, ExportInfo, MetaContext};
use crate::numbers::{HeaderStyle, OptionKind};
use crate::options::{self, InfoRequest, MetaRequest};
use crate::server::{Directory, Purpose, Refusal, Selection, ServerHandshake, Session};

/// Contexts that one client can select.
const MAX_CONTEXTS: usize = 16;

impl ServerHandshake {
    /// Answers an option that is allowed now; gives the session when it was a successful GO.
    pub(crate) fn answer(
        &mut self,
        option: OptionKind,
        data: &[u8],
        directory: &mut dyn Directory,
    ) -> Option<Session> {
        match option {
            OptionKind::List => self.list(data, directory),
            OptionKind::StructuredReply => self.structured(data),
            OptionKind::ExtendedHeaders => self.extended(data),
            OptionKind::Info => {
                self.info(option, data, directory);
            }
            OptionKind::Go => return self.info(option, data, directory),
            OptionKind::ListMetaContext | OptionKind::SetMetaContext => {
                self.meta(option, data, directory);
            }
            _ => self.refuse(
                option,
                OptionError::Unsupported,
                "this server does not know the option",
            ),
        }
        None
    }

    fn list(&mut self, data: &[u8], directory: &mut dyn Directory) {
        if !data.is_empty() {
            return self.refuse(OptionKind::List, OptionError::Invalid, "LIST takes no data");
        }
        match directory.list() {
            Ok(entries) => {
                for (name, description) in entries {
                    options::put_server(&mut self.output, &name, description.as_deref());
                }
                self.acknowledge(OptionKind::List);
            }
            Err(refusal) => self.refuse(OptionKind::List, refusal.error, &refusal.message),
        }
    }

    fn structured(&mut self, data: &[u8]) {
        let option = OptionKind::StructuredReply;
        if !data.is_empty() {
            return self.refuse(
                option,
                OptionError::Invalid,
                "STRUCTURED_REPLY takes no data",
            );
        }
        if self.style == HeaderStyle::Extended {
            let text = "extended headers are agreed on already";
            return self.refuse(option, OptionError::ExtendedHeadersRequired, text);
        }
        self.style = HeaderStyle::Structured;
        self.acknowledge(option);
    }

    fn extended(&mut self, data: &[u8]) {
        let option = OptionKind::ExtendedHeaders;
        if !data.is_empty() {
            return self.refuse(
                option,
                OptionError::Invalid,
                "EXTENDED_HEADERS takes no data",
            );
        }
        self.style = HeaderStyle::Extended;
        self.acknowledge(option);
    }

    fn info(
        &mut self,
        option: OptionKind,
        data: &[u8],
        directory: &mut dyn Directory,
    ) -> Option<Session> {
        let request = match InfoRequest::parse(data) {
            Ok(request) => request,
            Err(error) => {
                self.refuse(option, OptionError::Invalid, &error.to_string());
                return None;
            }
        };
        match self.lookup(option, request.name, directory) {
            Ok(mut info) => {
                info.flags = self.flags_for(request.name, info.flags);
                options::put_infos(&mut self.output, option, &request, &info);
                self.acknowledge(option);
                (option == OptionKind::Go).then(|| self.session(request.name, info))
            }
            Err(refusal) => {
                self.refuse(option, refusal.error, &refusal.message);
                None
            }
        }
    }

    /// Asks the directory. TLS_REQD must only be said where TLS is offered and not in use, and only to INFO and GO.
    fn lookup(
        &self,
        option: OptionKind,
        name: &str,
        directory: &mut dyn Directory,
    ) -> Result<ExportInfo, Refusal> {
        let purpose = match option {
            OptionKind::Go => Purpose::Open,
            _ => Purpose::Describe,
        };
        let opens = matches!(option, OptionKind::Info | OptionKind::Go);
        let sayable = opens && self.may_start_tls();
        directory.lookup(name, purpose).map_err(|mut refusal| {
            if !sayable && refusal.error == OptionError::TlsRequired {
                refusal.error = OptionError::Policy;
            }
            refusal
        })
    }

    fn meta(&mut self, option: OptionKind, data: &[u8], directory: &mut dyn Directory) {
        let setting = option == OptionKind::SetMetaContext;
        if setting {
            // Also when the option fails.
            self.selection = Selection::default();
        }
        if self.style == HeaderStyle::Simple {
            let text = "structured replies have to be agreed on first";
            return self.refuse(option, OptionError::Invalid, text);
        }
        let request = match MetaRequest::parse(data) {
            Ok(request) => request,
            Err(error) => return self.refuse(option, OptionError::Invalid, &error.to_string()),
        };
        if let Some(query) = request.queries.iter().find(|query| !query.contains(':')) {
            let text = format!("metadata query {query:?} has no colon");
            return self.refuse(option, OptionError::Invalid, &text);
        }
        match self.lookup(option, request.name, directory) {
            Ok(info) if setting => self.set_contexts(&request, &info),
            Ok(info) => self.list_contexts(&request, &info),
            Err(refusal) => self.refuse(option, refusal.error, &refusal.message),
        }
    }

    fn list_contexts(&mut self, request: &MetaRequest<'_>, info: &ExportInfo) {
        let option = OptionKind::ListMetaContext;
        let wanted = |name: &str| {
            request.queries.is_empty() || request.queries.iter().any(|query| matches(query, name))
        };
        for name in info.contexts.iter().filter(|name| wanted(name)) {
            options::put_context(&mut self.output, option, ContextId(0), name);
        }
        self.acknowledge(option);
    }

    fn set_contexts(&mut self, request: &MetaRequest<'_>, info: &ExportInfo) {
        let option = OptionKind::SetMetaContext;
        let chosen = info
            .contexts
            .iter()
            .filter(|name| request.queries.contains(&name.as_str()));
        let chosen: Vec<MetaContext> = chosen
            .zip(1..)
            .map(|(name, id)| MetaContext {
                id: ContextId(id),
                name: name.clone(),
            })
            .collect();
        if chosen.len() > MAX_CONTEXTS {
            return self.refuse(
                option,
                OptionError::TooBig,
                "at most 16 metadata contexts can be selected",
            );
        }
        for context in &chosen {
            options::put_context(&mut self.output, option, context.id, &context.name);
        }
        self.selection = Selection {
            export: request.name.to_owned(),
            contexts: chosen,
        };
        self.acknowledge(option);
    }
}

/// Whether a LIST query finds a context: by its name, or by a prefix that ends in a colon
/// (`base:`, `qemu:dirty-bitmap:`).
fn matches(query: &str, name: &str) -> bool {
    query == name || (query.ends_with(':') && name.starts_with(query))
}
