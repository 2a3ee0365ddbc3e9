//! One request and its answer, by an instance that has no other request.
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
use tokio::sync::OwnedSemaphorePermit;

use super::answer::Answer;
use super::connection::Busy;
use super::instance::{Call, Instance, Refused};
use super::patience::Waiting;
use super::worker::Local;
use crate::Outcome;

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
    let (instance, call, answer) = match Instance::of(&local, request) {
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
        (instance, call),
        Rc::clone(&progress),
        Rc::clone(&name),
        permit,
    );
    local.spawn(run);
    let reason = match answer.await {
        Ok(Ok(response)) => return Answer::guest(response, progress, busy),
        Ok(Err(code)) => format!("the handler answered with the error {code}"),
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

/// Runs the guest to its end.
async fn run(
    local: Rc<Local>,
    (mut instance, call): (Instance, Call),
    progress: Rc<Progress>,
    name: Rc<Name>,
    _permit: OwnedSemaphorePermit,
) {
    let (server, guest) = (&local.server, local.server.guest());
    let interrupter = instance.interrupter().clone();
    let patience = server.patience.as_ref();
    let waiting = patience.map(|patience| patience.begin(&interrupter));
    let cause = match interrupter.guard(instance.ask(call)).await {
        Some(Ok(())) => {
            if waiting.is_none_or(Waiting::over) && local.kept.keep(instance) {
                let local = Rc::clone(&local);
                let watch = async move { local.kept.let_go(local.server.idle_timeout).await };
                drop(tokio::task::spawn_local(watch));
            }
            return;
        }
        Some(Err(error)) => {
            let mapped = interrupter.means().mapped();
            Some(Cause::of(Outcome::of(Err(error), &guest.limits, mapped)))
        }
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
    drop(instance);
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
