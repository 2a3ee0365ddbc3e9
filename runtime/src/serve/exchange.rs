//! One request and its answer, by an instance of its own.
//!
//! The instance is driven by a task beside the connection, because it may go on when its answer is under
//! way, and when the client is gone. What goes wrong in it is told on the container's stderr: the client
//! gets a status if it has none yet, else the body breaks off.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use wasmtime::Store;
use wasmtime::component::Resource;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostResponseOutparam};

use super::Server;
use super::answer::Answer;
use super::connection::Busy;
use super::worker::Local;
use crate::artifact::store;
use crate::host::Host;
use crate::{Interrupter, Outcome};

/// The most of a request's path that is put into a line of the log, in bytes.
const PATH: usize = 200;

/// How the guest of a request fares.
#[derive(Default)]
pub(super) struct Progress {
    failure: Cell<Option<StatusCode>>,
}

impl Progress {
    pub(super) fn has_failed(&self) -> bool {
        self.failure.get().is_some()
    }
}

/// What a request is called in the log.
struct Name {
    method: Method,
    uri: Uri,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.uri.path();
        let shown = &path[..path.floor_char_boundary(PATH)];
        let more = if shown.len() < path.len() { "..." } else { "" };
        write!(f, "{} {shown}{more}", self.method)
    }
}

/// Answers `request`.
pub(super) async fn exchange(
    local: Rc<Local>,
    busy: Busy,
    mut request: Request<Incoming>,
) -> Response<Answer> {
    let requests = Arc::clone(&local.server.requests);
    let permit = requests.acquire_owned().await.expect("it is never closed");
    let name = Name {
        method: request.method().clone(),
        uri: request.uri().clone(),
    };
    if request.version() < Version::HTTP_11 {
        // There nobody has to say which host is meant; WASI has it that there is one.
        let any = HeaderValue::from_static("localhost");
        request.headers_mut().entry(header::HOST).or_insert(any);
    }
    let interrupter = local.interrupter.below();
    let (instance, receiver) = match Instance::new(&local.server, &interrupter, request) {
        Ok(made) => made,
        Err(Refused::Request) => return Answer::status(StatusCode::BAD_REQUEST, busy),
        Err(Refused::Host(error)) => {
            let line = format!("{name}: cannot make an instance for it: {error:#}\n");
            local.server.guest().stderr.say(line.as_bytes()).await;
            return Answer::status(StatusCode::INTERNAL_SERVER_ERROR, busy);
        }
    };
    let progress = Rc::new(Progress::default());
    let name = Rc::new(name);
    let run = run(
        Rc::clone(&local),
        instance,
        interrupter,
        Rc::clone(&progress),
        Rc::clone(&name),
        permit,
    );
    drop(tokio::task::spawn_local(run));
    let reason = match receiver.await {
        Ok(Ok(response)) => return Answer::guest(response, progress, busy),
        Ok(Err(code)) => format!("the handler answered with the error {code:?}"),
        Err(_) => {
            if let Some(status) = progress.failure.get() {
                // It has said why.
                return Answer::status(status, busy);
            }
            "the handler returned without an answer".to_owned()
        }
    };
    let stderr = &local.server.guest().stderr;
    stderr.say(format!("{name}: {reason}\n").as_bytes()).await;
    Answer::status(StatusCode::INTERNAL_SERVER_ERROR, busy)
}

/// Why there is no instance.
enum Refused {
    /// The request is none that WASI could carry.
    Request,
    /// The host's fault.
    Host(wasmtime::Error),
}

/// A store with a request in it; the component comes later.
struct Instance {
    store: Store<Host>,
    request: Resource<HostIncomingRequest>,
    out: Resource<HostResponseOutparam>,
}

/// What the guest sets, once.
type Answered = oneshot::Receiver<Result<Response<HyperOutgoingBody>, ErrorCode>>;

impl Instance {
    fn new(
        server: &Server,
        interrupter: &Interrupter,
        request: Request<Incoming>,
    ) -> Result<(Self, Answered), Refused> {
        let template = &server.template;
        let host = template
            .host()
            .map_err(|error| Refused::Host(error.into()))?;
        let engine = server.handler.engine();
        let mut store = store(engine, host, &template.guest, interrupter);
        let (sender, receiver) = oneshot::channel();
        let mut http = store.data_mut().http();
        // It fails only for a request that says no host, or not in letters.
        let request = http.new_incoming_request(Scheme::Http, request);
        let request = request.map_err(|_| Refused::Request)?;
        let out = http.new_response_outparam(sender).map_err(Refused::Host)?;
        let made = Self {
            store,
            request,
            out,
        };
        Ok((made, receiver))
    }
}

/// Runs the guest to its end.
async fn run(
    local: Rc<Local>,
    instance: Instance,
    interrupter: Interrupter,
    progress: Rc<Progress>,
    name: Rc<Name>,
    _permit: OwnedSemaphorePermit,
) {
    let Instance {
        mut store,
        request,
        out,
    } = instance;
    let (server, guest) = (&local.server, local.server.guest());
    let waiting = server
        .patience
        .as_ref()
        .map(|patience| patience.begin(&interrupter));
    let call = async {
        let proxy = server.handler.instantiate_async(&mut store).await?;
        let handler = proxy.wasi_http_incoming_handler();
        handler.call_handle(&mut store, request, out).await
    };
    let cause = match interrupter.guard(call).await {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(Cause::of(Outcome::of(Err(error), &guest.limits))),
        None => {
            let exceeded = waiting.as_ref().and_then(|waiting| waiting.exceeded());
            exceeded.map(Cause::Late)
        }
    };
    drop(waiting);
    if let Some(cause) = &cause {
        progress.failure.set(Some(cause.status()));
        // Before the client hears of it.
        let line = format!("{name}: {cause}");
        guest.stderr.say(line.as_bytes()).await;
    }
    // What was not answered is known to the connection by this.
    drop(store);
}

/// Why a guest failed.
enum Cause {
    /// It had its time.
    Late(Duration),
    Ended(Outcome),
}

impl Cause {
    fn of(outcome: Outcome) -> Self {
        Self::Ended(outcome)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Late(_) => StatusCode::GATEWAY_TIMEOUT,
            Self::Ended(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(time) => writeln!(f, "the handler took longer than {time:?}"),
            Self::Ended(Outcome::Exited(code)) => {
                writeln!(
                    f,
                    "the handler exited, with code {code}, and did not return"
                )
            }
            Self::Ended(outcome) => f.write_str(&outcome.last_words()),
        }
    }
}
