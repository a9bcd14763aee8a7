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
    future::{pending, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use tokio::{
    sync::{Semaphore, SemaphorePermit, TryAcquireError},
    time::{Instant, sleep_until},
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

/// The method whose answers are shared by all its callers.
const SHARED: &str = "/netio.v1.NetIoService/Subscribe";

/// Answers of so many bytes are bounded by the number of calls.
pub(super) const SMALL: usize = 16 * 1024;

/// See the module.
pub(super) struct Call {
    reply: SendResponse<Bytes>,
    rules: Rules,
    answers: Arc<Semaphore>,
    is_shared: bool,
    pace: Pace,
    /// Who calls: by the connection, or by the call's token once that was looked at.
    owner: String,
}

impl Call {
    pub(super) fn new(
        reply: SendResponse<Bytes>,
        rules: Rules,
        answers: &Arc<Semaphore>,
        pace: &Pace,
        peer: &Peer,
    ) -> Self {
        Self {
            reply,
            rules,
            answers: Arc::clone(answers),
            is_shared: false,
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

    pub(super) async fn serve<S>(mut self, request: Request<RecvStream>, service: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        let begun = Instant::now();
        self.is_shared = request.uri().path() == SHARED;
        let allowed = match allowed(request.headers()) {
            Ok(allowed) => allowed,
            Err(status) => return self.refuse(&status),
        };
        let deadline = Deadline {
            at: allowed.and_then(|allowed| begun.checked_add(allowed)),
        };
        let request = request.map(|body| Body::new(RequestBody::new(body)));
        let response = {
            let mut response = pin!(service.oneshot(request));
            tokio::select! {
                biased;
                response = &mut response => match response {
                    Ok(response) => Ok(response),
                    Err(never) => match never {},
                },
                _ = poll_fn(|cx| self.reply.poll_reset(cx)) => return,
                () = deadline.passes() => Err(rpc::deadline_exceeded()),
                () = sleep_until(begun + self.rules.patience.request) => {
                    Err(rpc::request_timeout(self.rules.patience.request))
                }
            }
        };
        let (head, body) = match response {
            Ok(response) => response.into_parts(),
            Err(status) => return self.refuse(&status),
        };
        if let Some(caller) = head.extensions.get::<Caller>() {
            self.owner.clone_from(&caller.owner);
        }
        let is_end = body.is_end_stream();
        let head = Response::from_parts(head, ());
        let Ok(stream) = self.reply.send_response(head, is_end) else {
            return;
        };
        self.pace.answered(0);
        if !is_end {
            let sending = Sending::new(stream, self.rules.stall);
            self.stream(sending, pin!(body), deadline).await;
        }
    }

    async fn stream(&self, mut sending: Sending, mut body: Pin<&mut Body>, deadline: Deadline) {
        let mut passes = pin!(deadline.passes());
        loop {
            let frame = tokio::select! {
                biased;
                () = &mut passes => {
                    return sending.fail(&rpc::deadline_exceeded(), Reason::CANCEL);
                }
                frame = poll_fn(|cx| body.as_mut().poll_frame(cx)) => frame,
                () = sending.closed() => return,
            };
            let frame = match frame {
                Some(Ok(frame)) => frame,
                // A body tells its errors in trailers.
                Some(Err(status)) => {
                    debug!(%status, "an answer's body failed");
                    return sending.fail(&status, Reason::INTERNAL_ERROR);
                }
                None => return sending.end(None),
            };
            let message = match frame.into_data() {
                Ok(message) => message,
                Err(frame) => return sending.end(frame.into_trailers().ok()),
            };
            let bytes = message.len();
            let Ok(_held) = self.hold(bytes) else {
                let status = rpc::too_many_answers(self.rules.max_answers);
                return sending.fail(&status, Reason::ENHANCE_YOUR_CALM);
            };
            let sent = tokio::select! {
                biased;
                sent = sending.send(message) => sent,
                () = &mut passes => {
                    return sending.fail(&rpc::deadline_exceeded(), Reason::CANCEL);
                }
            };
            match sent {
                Ok(()) => self.pace.answered(bytes),
                Err(Unsent::Closed) => return,
                Err(Unsent::Stalled) => {
                    let stall = self.rules.stall;
                    info!(
                        owner = self.owner,
                        "dropped a reader that took nothing for {stall:?}"
                    );
                    // Which gRPC knows as RESOURCE_EXHAUSTED.
                    return sending.fail(&rpc::reader_stalled(stall), Reason::ENHANCE_YOUR_CALM);
                }
            }
        }
    }
}

impl Call {
    /// Makes sure that a message may wait for the caller, if it is not shared.
    fn hold(&self, bytes: usize) -> Result<Option<SemaphorePermit<'_>>, TryAcquireError> {
        if self.is_shared || bytes <= SMALL {
            return Ok(None);
        }
        // None is as large as that.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.answers.try_acquire_many(bytes).map(Some)
    }
}

/// When the caller's patience ends, if ever.
#[derive(Clone, Copy)]
struct Deadline {
    at: Option<Instant>,
}

impl Deadline {
    async fn passes(self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => pending().await,
        }
    }
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
