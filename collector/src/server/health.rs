//! The standard gRPC health service.
//!
//! Tells of the server as a whole ("") that it serves, and of
//! netio.v1.NetIoService whether it can count, that is, whether hooks are
//! attached. When the collector stops, those who watch the health are told and
//! their streams end.
#![forbid(unsafe_code)]

use netio::v1::net_io_service_server::SERVICE_NAME;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

const WHOLE_SERVER: &str = "";

pub(super) struct Health {
    reporter: HealthReporter,
}

impl Health {
    pub(super) async fn new(attached: bool) -> Self {
        let reporter = HealthReporter::new();
        let status = if attached {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        reporter.set_service_status(SERVICE_NAME, status).await;
        Self { reporter }
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
