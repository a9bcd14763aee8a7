//! Lets requests through to the services, or not.
//!
//! A layer around all of them, reflection and health included. Takes requests with the
//! connection's [`Peer`]; those that it lets through have a [`Caller`] besides, as their
//! answers have, and no authorization header any more.
#![forbid(unsafe_code)]

use std::{
    future::ready,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION, uri::PathAndQuery};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{Access, Caller, Refusal};
use crate::{rpc::reason, server::Peer};

/// Makes the gate of each connection.
#[derive(Clone)]
pub(crate) struct Gates(pub(crate) Arc<Access>);

impl<S> Layer<S> for Gates {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        let access = Arc::clone(&self.0);
        Gate { inner, access }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    access: Arc<Access>,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.admit(&request) {
            Ok(caller) => {
                request.headers_mut().remove(AUTHORIZATION);
                request.extensions_mut().insert(caller.clone());
                let answer = self.inner.call(request);
                Box::pin(async {
                    let mut answer = answer.await?;
                    answer.extensions_mut().insert(caller);
                    Ok(answer)
                })
            }
            Err(status) => Box::pin(ready(Ok(status.into_http()))),
        }
    }
}

impl<S> Gate<S> {
    fn admit(&self, request: &Request<Body>) -> Result<Caller, Status> {
        let Some(peer) = request.extensions().get::<Peer>() else {
            return Err(Status::internal("the connection does not tell who calls"));
        };
        // With the query, so that no method has one.
        let path = request
            .uri()
            .path_and_query()
            .map_or("", PathAndQuery::as_str);
        let standing = &peer.standing;
        let admitted =
            token(request.headers()).and_then(|token| self.access.admit(path, standing, token));
        let admitted = admitted.inspect(|_| peer.proof.give());
        admitted.map_err(|refusal| {
            let who = match &refusal {
                Refusal::Role { owner, .. } => owner.clone(),
                _ => standing.owner.clone(),
            };
            let status = Status::from(refusal);
            let audit = &self.access.audit;
            audit.refused(&who, path, "", &reason(&status));
            status
        })
    }
}

/// What follows "Bearer" in the authorization header, if there is one.
fn token(headers: &HeaderMap) -> Result<Option<&[u8]>, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.as_bytes(),
        (Some(_), Some(_)) => return Err(Refusal::Token),
    };
    match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"Bearer ") => {
            Ok(Some(token.trim_ascii()))
        }
        _ => Err(Refusal::Token),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_bearer_token_is_one() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(AUTHORIZATION, value.parse().unwrap());
            }
            token(&headers).map(|token| token.map(<[u8]>::to_vec))
        };
        assert_eq!(of(&[]), Ok(None));
        for good in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            assert_eq!(of(&[good]).unwrap().unwrap(), b"abc", "{good}");
        }
        for bad in ["", "abc", "Basic abc", "Bearer", "Bearerabc"] {
            assert_eq!(of(&[bad]), Err(Refusal::Token), "{bad}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(Refusal::Token));
    }
}
