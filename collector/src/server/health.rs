//! The standard gRPC health service.
//!
//! Tells of netio.v1.NetIoService whether it can count: ticks go on, and hooks
//! count or rest until something is watched. Of the server as a whole ("") it tells
//! that it serves while ticks go on: without, no call is answered. When the
//! collector stops, those who watch the health are told and their streams end.
#![forbid(unsafe_code)]

use netio::v1::net_io_service_server::SERVICE_NAME;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use super::self_watch::State;

const WHOLE_SERVER: &str = "";

/// Clones tell the same service.
#[derive(Clone)]
pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    /// Of a server that has only begun.
    pub(super) async fn new() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
        };
        health.tell(State::Blind).await;
        health
    }

    /// Tells how the collector fares.
    pub(super) async fn tell(&self, state: State) {
        let of = |serving| match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for (name, serving) in [
            (WHOLE_SERVER, state != State::Stalled),
            (SERVICE_NAME, state == State::Fine),
        ] {
            self.reporter.set_service_status(name, of(serving)).await;
        }
    }

    pub(super) fn service(&self) -> HealthServer<HealthService> {
        let service = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(service)
    }

    pub(super) async fn stop(&mut self) {
        for name in [WHOLE_SERVER, SERVICE_NAME] {
            let stopped = ServingStatus::NotServing;
            self.reporter.set_service_status(name, stopped).await;
            // Ends the streams, which would keep their connections open.
            self.reporter.clear_service_status(name).await;
        }
    }
}
