//! One call, from its request to the end of its answer.
//!
//! Takes a request and a service, sends the peer what the service answers. Promises that
//! it ends: when the peer loses interest; at the caller's deadline (grpc-timeout), an
//! answer's stream included; where the request does not come or the answer does not
//! begin, after [`super::Patience::request`]; and when the peer takes nothing of an
//! answer that waits for it, after [`super::Rules::stall`]. The service's future or body is
//! dropped then.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, TryAcquireError},
    time::{Instant, Sleep, sleep_until},
};
use tonic::{Status, body::Body};
use tower::{Service, ServiceExt as _};
use tracing::{debug, info};

use super::{
    Rules,
    request::RequestBody,
    sending::{Sending, Unsent},
};
use crate::{
    access::Caller,
    rpc,
    server::{Peer, pace::Pace},
};

/// The header by which a caller says how long it will wait.
const TIMEOUT: &str = "grpc-timeout";

/// Answers of so many bytes are bounded by the number of calls.
pub(super) const SMALL: usize = 16 * 1024;

/// What all calls have in common, and what their larger answers must not exceed in all, as
/// long as they wait for their callers.
pub(super) struct Common {
    pub(super) rules: Rules,
    /// Bytes of those of calls that change nothing: past it, they are refused.
    bytes: Semaphore,
    /// Calls that change something have their answer in any case. So of these as many are
    /// under way, until their answer is there and small, or was taken; others wait.
    changes: Arc<Semaphore>,
}

impl Common {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            bytes: Semaphore::new(rules.max_answers),
            changes: Arc::new(Semaphore::new(rules.max_changes)),
            rules,
        }
    }
}

/// What a call's answer is to others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The same for all callers, so that they have it once.
    Shared,
    /// Of a call that changes something.
    Change,
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/netio.v1.NetIoService/") {
            Some("Subscribe") => Self::Shared,
            Some("Watch" | "Unwatch" | "RenewWatches") => Self::Change,
            _ => Self::Other,
        }
    }
}

/// See the module.
pub(super) struct Call {
    reply: SendResponse<Bytes>,
    common: Arc<Common>,
    kind: Kind,
    pace: Pace,
    /// Who calls: by the connection, or by the call's token once that was looked at.
    owner: String,
}

impl Call {
    pub(super) fn new(
        reply: SendResponse<Bytes>,
        common: &Arc<Common>,
        pace: &Pace,
        peer: &Peer,
    ) -> Self {
        Self {
            reply,
            common: Arc::clone(common),
            kind: Kind::Other,
            pace: pace.clone(),
            owner: peer.standing.owner.clone(),
        }
    }

    /// Answers with nothing but a status.
    pub(super) fn refuse(mut self, status: &Status) {
        let response: Response<()> = status.clone().into_http();
        // Fails if the peer has gone.
        let _ = self.reply.send_response(response, true);
    }

    /// See the module. What it takes to have an answer is not held while that streams, of
    /// which there may be many.
    pub(super) fn serve<S>(
        self,
        request: Request<RecvStream>,
        service: S,
    ) -> impl Future<Output = ()> + Send
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let answered = Box::pin(self.answer(request, service));
        async {
            if let Some(streamed) = answered.await {
                streamed.await;
            }
        }
    }

    /// Gives what streams the answer, if there is more of it than its head.
    async fn answer<S>(
        mut self,
        request: Request<RecvStream>,
        service: S,
    ) -> Option<Pin<Box<impl Future<Output = ()> + Send>>>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let begun = Instant::now();
        self.kind = Kind::of(request.uri().path());
        let common = Arc::clone(&self.common);
        let patience = common.rules.patience.request;
        let at = match allowed(request.headers()) {
            Ok(allowed) => allowed.and_then(|allowed| begun.checked_add(allowed)),
            Err(status) => {
                self.refuse(&status);
                return None;
            }
        };
        let mut deadline = at.map(|at| Box::pin(sleep_until(at)));
        let request = request.map(|body| Body::new(RequestBody::new(body)));
        let answered = async {
            let change = match self.kind {
                // Never closed.
                Kind::Change => Arc::clone(&common.changes).acquire_owned().await.ok(),
                Kind::Shared | Kind::Other => None,
            };
            (service.oneshot(request).await, change)
        };
        let response = {
            let mut answered = pin!(answered);
            tokio::select! {
                biased;
                (response, change) = &mut answered => match response {
                    Ok(response) => Ok((response, change)),
                    Err(never) => match never {},
                },
                _ = poll_fn(|cx| self.reply.poll_reset(cx)) => return None,
                () = passes(&mut deadline) => Err(rpc::deadline_exceeded()),
                () = sleep_until(begun + patience) => Err(rpc::request_timeout(patience)),
            }
        };
        let ((head, body), change) = match response {
            Ok((response, change)) => (response.into_parts(), change),
            Err(status) => {
                self.refuse(&status);
                return None;
            }
        };
        if let Some(caller) = head.extensions.get::<Caller>() {
            self.owner.clone_from(&caller.owner);
        }
        let is_end = body.is_end_stream();
        let head = Response::from_parts(head, ());
        let stream = self.reply.send_response(head, is_end).ok()?;
        self.pace.answered(0);
        if is_end {
            return None;
        }
        let answer = Answer {
            sending: Sending::new(stream, self.common.rules.stall),
            common: self.common,
            kind: self.kind,
            pace: self.pace,
            owner: self.owner,
            body,
            deadline,
            change,
        };
        Some(Box::pin(answer.stream()))
    }
}

/// An answer that has begun.
struct Answer {
    sending: Sending,
    common: Arc<Common>,
    kind: Kind,
    pace: Pace,
    owner: String,
    body: Body,
    /// Passes when the caller's patience ends.
    deadline: Option<Pin<Box<Sleep>>>,
    /// What one that changes something has, so that its answer may be large.
    change: Option<OwnedSemaphorePermit>,
}

impl Answer {
    async fn stream(mut self) {
        loop {
            let frame = tokio::select! {
                biased;
                () = passes(&mut self.deadline) => {
                    return self.sending.fail(&rpc::deadline_exceeded(), Reason::CANCEL);
                }
                frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)) => frame,
                () = self.sending.closed() => return,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                // A body tells its errors in trailers.
                Some(Err(status)) => {
                    debug!(%status, "an answer's body failed");
                    return self.sending.fail(&status, Reason::INTERNAL_ERROR);
                }
                None => return self.sending.end(None),
            };
            let message = match frame.into_data() {
                Ok(message) => message,
                Err(frame) => return self.sending.end(frame.into_trailers().ok()),
            };
            let bytes = message.len();
            let Ok(_held) = self.common.hold(self.kind, bytes, &mut self.change) else {
                let status = rpc::too_many_answers(self.common.rules.max_answers);
                return self.sending.fail(&status, Reason::ENHANCE_YOUR_CALM);
            };
            let sent = match self.sending.send_at_once(message) {
                Ok(()) => Ok(()),
                // Rarely needed, so that streams do without room for it.
                Err(message) => tokio::select! {
                    biased;
                    sent = Box::pin(self.sending.send(message)) => sent,
                    () = passes(&mut self.deadline) => {
                        return self.sending.fail(&rpc::deadline_exceeded(), Reason::CANCEL);
                    }
                },
            };
            match sent {
                Ok(()) => self.pace.answered(bytes),
                Err(Unsent::Closed) => return,
                Err(Unsent::Stalled) => {
                    let (stall, owner) = (self.common.rules.stall, self.owner);
                    info!(owner, "dropped a reader that took nothing for {stall:?}");
                    // Which gRPC knows as RESOURCE_EXHAUSTED.
                    let status = rpc::reader_stalled(stall);
                    return self.sending.fail(&status, Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
    }
}

impl Common {
    /// Makes sure that a message may wait for the caller; `change` is what one that changes
    /// something has for it.
    fn hold(
        &self,
        kind: Kind,
        bytes: usize,
        change: &mut Option<OwnedSemaphorePermit>,
    ) -> Result<Option<SemaphorePermit<'_>>, TryAcquireError> {
        if bytes <= SMALL {
            *change = None;
            return Ok(None);
        }
        if kind != Kind::Other {
            return Ok(None);
        }
        // None is as large as that.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.bytes.try_acquire_many(bytes).map(Some)
    }
}

/// Waits for a time, if there is one.
async fn passes(deadline: &mut Option<Pin<Box<Sleep>>>) {
    poll_fn(|cx| match deadline {
        Some(deadline) => deadline.as_mut().poll(cx),
        None => Poll::Pending,
    })
    .await;
}

/// How long the caller will wait, if it says so: up to 8 digits and a unit.
fn allowed(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(parse);
    parsed.map(Some).ok_or_else(rpc::timeout_invalid)
}

fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_has_them() {
        for (text, expected) in [
            ("1n", Duration::from_nanos(1)),
            ("20u", Duration::from_micros(20)),
            ("300m", Duration::from_millis(300)),
            ("0S", Duration::ZERO),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "S",
            "1",
            "1s",
            "1 S",
            "-1S",
            "+1S",
            "123456789S",
            "1.5S",
            "1ü",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
