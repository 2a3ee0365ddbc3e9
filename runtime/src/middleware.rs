//! http-wasm: a core module of the ABI `http_handler` (http-wasm.io, "HTTP Handler ABI") is middleware. It is shown each
//! request before an upstream is asked, and the upstream's answer after that.
//!
//! ```text
//! client ──► handle_request ──next──► upstream ──► handle_response ──► client
//!                   └──────── its own answer ────────────────────────────▲
//! ```
//!
//! An instance has one request from its first call to its second, as what the one returns for the other may mean
//! something in its memory; then it is asked for the next. Bodies are streamed, as far as the module does not look at
//! them; what is held of them is bounded, and of the container's memory.

mod abi;
mod body;
mod conversation;
mod headers;
mod upstream;

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use wasmtime::{ExternType, Instance, InstancePre, Module, Store, TypedFunc};
use wasmtime_wasi::I32Exit;
use wasmtime_wasi_http::WasiBody;

use self::body::{Passed, pump};
use self::conversation::BUFFER_RESPONSE;
pub(crate) use self::conversation::Conversation;
pub(crate) use self::upstream::Connections;
use crate::call::INITIALIZE;
use crate::host::Host;
use crate::module::{WASI, linker};
use crate::{Error, Output};

/// The module that the ABI is imported from.
const ABI: &str = "http_handler";
/// What such a module exports.
const REQUEST: &str = "handle_request";
const RESPONSE: &str = "handle_response";
const MEMORY: &str = "memory";
/// What a module exports whose `main` registers its handlers.
const START: &str = "_start";

/// What HTTP middleware is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Middleware {
    /// The host of the upstream, a name or an address.
    pub host: String,
    /// Its port, where it speaks HTTP/1.1 without TLS.
    pub port: u16,
    /// What `get_config` returns.
    pub config: Vec<u8>,
    /// How much of a body is held at most, where the module asks for that, in bytes; each request has two. It is
    /// memory of the guest's budget.
    pub buffer_bytes: usize,
}

/// Whether `module` is middleware: it imports from `http_handler`, or exports what that calls.
pub(crate) fn serves(module: &Module) -> bool {
    module.imports().any(|import| import.module() == ABI)
        || module.get_export(REQUEST).is_some() && module.get_export(RESPONSE).is_some()
}

/// A module, linked.
pub(crate) struct Program {
    module: InstancePre<Host>,
    given: Arc<Middleware>,
}

/// An instance of it.
pub(crate) struct Made {
    request: TypedFunc<(), u64>,
    response: TypedFunc<(u32, u32), ()>,
}

/// What an instance is asked.
pub(crate) struct Asked {
    pub(crate) program: Arc<Program>,
    pub(crate) request: Box<Request<Incoming>>,
    pub(crate) connections: std::rc::Rc<Connections>,
    pub(crate) stderr: Output,
}

/// Where its answer goes.
pub(crate) type Answered = oneshot::Sender<Result<Response<WasiBody>, String>>;

impl Program {
    /// Links `module`, which [`serves`].
    pub(crate) fn link(module: &Module, given: Middleware) -> Result<Self, Error> {
        let unresolved: Vec<String> = module
            .imports()
            .filter(|import| ![ABI, WASI].contains(&import.module()))
            .map(|import| format!("{}::{}", import.module(), import.name()))
            .collect();
        if !unresolved.is_empty() {
            return Err(Error::Unresolved {
                imports: unresolved,
                provided: vec![ABI.to_owned(), WASI.to_owned()],
            });
        }
        exports(module)?;
        let mut linker = linker(module.engine())?;
        abi::add_to_linker(&mut linker).map_err(Error::engine)?;
        let module = linker.instantiate_pre(module);
        let module = module.map_err(|error| Error::Import {
            reason: format!("{error:#}"),
        })?;
        Ok(Self {
            module,
            given: Arc::new(given),
        })
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.module.module().engine()
    }

    async fn make(&self, store: &mut Store<Host>) -> wasmtime::Result<Made> {
        let budget = store.data().limiter.budget().clone();
        let conversation = Conversation::new(Arc::clone(&self.given), budget);
        store.data_mut().middleware = Some(Box::new(conversation));
        let instance = self.module.instantiate_async(&mut *store).await?;
        for start in [INITIALIZE, START] {
            begin(&instance, store, start).await?;
        }
        Ok(Made {
            request: instance.get_typed_func(&mut *store, REQUEST)?,
            response: instance.get_typed_func(&mut *store, RESPONSE)?,
        })
    }
}

/// Calls what makes an instance ready, if it has that.
async fn begin(instance: &Instance, store: &mut Store<Host>, name: &str) -> wasmtime::Result<()> {
    let Some(function) = instance.get_func(&mut *store, name) else {
        return Ok(());
    };
    let called = function.typed::<(), ()>(&*store)?;
    match called.call_async(&mut *store, ()).await {
        // The end of a `main` that is well.
        Err(error)
            if error
                .downcast_ref::<I32Exit>()
                .is_some_and(|exit| exit.0 == 0) =>
        {
            Ok(())
        }
        ended => ended,
    }
}

/// Whether it has what the ABI says.
fn exports(module: &Module) -> Result<(), Error> {
    let wrong = |wanted: &str, reason: String| Error::NoExport {
        wanted: wanted.to_owned(),
        reason: format!("{reason}; HTTP middleware ({ABI}) has that"),
        callable: Vec::new(),
    };
    for (name, takes, returns) in [(REQUEST, "", "i64"), (RESPONSE, "i32 i32", "")] {
        match module.get_export(name) {
            Some(ExternType::Func(of)) => {
                let words = |types: &mut dyn Iterator<Item = wasmtime::ValType>| {
                    types.map(|of| of.to_string()).collect::<Vec<_>>().join(" ")
                };
                if words(&mut of.params()) != takes || words(&mut of.results()) != returns {
                    return Err(wrong(
                        name,
                        format!("its type is {of}, and not ({takes}) -> ({returns})"),
                    ));
                }
            }
            Some(_) => return Err(wrong(name, "it is no function".to_owned())),
            None => return Err(wrong(name, "there is no such export".to_owned())),
        }
    }
    match module.get_export(MEMORY) {
        Some(ExternType::Memory(_)) => Ok(()),
        _ => Err(wrong(MEMORY, "there is no such memory".to_owned())),
    }
}

impl Asked {
    /// Has `made`, or a new instance in `store`, see to the request. Who waits for the answer, and gets none, hears
    /// of that when `answered` is dropped.
    pub(crate) async fn ask(
        self,
        store: &mut Store<Host>,
        made: &mut Option<Made>,
        answered: &mut Option<Answered>,
    ) -> wasmtime::Result<()> {
        let made = match made {
            Some(made) => made,
            none @ None => none.insert(self.program.make(store).await?),
        };
        let name = format!("{} {}", self.request.method(), self.request.uri().path());
        talk(store).begin(*self.request);
        let verdict = made.request.call_async(&mut *store, ()).await?;
        let [next, context] = halves(verdict);
        let asked = match next {
            0 => Err(talk(store).response()?),
            _ => talk(store).upstream_request().await?,
        };
        let request = match asked {
            Ok(request) => request,
            Err(own) => {
                let (response, sender, body) = answer(own);
                send(answered, response);
                pump(body, &sender).await;
                talk(store).end();
                return Ok(());
            }
        };
        let given = &self.program.given;
        let network = store.data().network();
        let sent = tokio::select! {
            biased;
            sent = self.connections.send(&network, given, request) => Some(sent),
            // Whatever the upstream does for it, it does for nobody: its connection is closed.
            () = gone(answered) => None,
        };
        let (connection, failed) = match sent {
            Some(Ok((response, connection))) => {
                talk(store).answered(response);
                (Some(connection), false)
            }
            None => {
                talk(store).failed();
                (None, true)
            }
            Some(Err(reason)) => {
                let (host, port) = (&given.host, given.port);
                let line = format!("{name}: cannot ask the upstream {host}:{port}: {reason}\n");
                self.stderr.say(line.as_bytes()).await;
                talk(store).failed();
                (None, true)
            }
        };
        let buffered = talk(store).has(BUFFER_RESPONSE);
        if buffered {
            let parameters = (context, u32::from(failed));
            made.response.call_async(&mut *store, parameters).await?;
        }
        let (response, sender, body) = answer(talk(store).response()?);
        send(answered, response);
        let whole = pump(body, &sender).await;
        if !buffered {
            let parameters = (context, u32::from(failed || !whole));
            made.response.call_async(&mut *store, parameters).await?;
        }
        if let Some(connection) = connection.filter(|_| whole) {
            self.connections.keep(connection);
        }
        talk(store).end();
        Ok(())
    }
}

/// The low and the high one.
#[allow(clippy::cast_possible_truncation, reason = "it is what the ABI says")]
fn halves(both: u64) -> [u32; 2] {
    [both as u32, (both >> 32) as u32]
}

/// Of an instance that was made.
fn talk(store: &mut Store<Host>) -> &mut Conversation {
    let conversation = store.data_mut().middleware.as_mut();
    conversation.expect("it was given one when it was made")
}

/// A response whose body comes by a channel, and what is to come.
fn answer(response: Response<body::Joined>) -> (Response<WasiBody>, body::Sender, body::Joined) {
    use http_body_util::BodyExt as _;
    let (parts, body) = response.into_parts();
    let (passed, sender) = Passed::new(&body);
    (
        Response::from_parts(parts, passed.boxed_unsync()),
        sender,
        body,
    )
}

/// Waits until nobody waits for an answer any more.
async fn gone(answered: &mut Option<Answered>) {
    match answered {
        Some(answered) => answered.closed().await,
        None => std::future::pending().await,
    }
}

fn send(answered: &mut Option<Answered>, response: Response<WasiBody>) {
    if let Some(answered) = answered.take() {
        // The client may be gone.
        drop(answered.send(Ok(response)));
    }
}
