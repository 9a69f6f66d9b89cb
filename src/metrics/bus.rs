//! The bus: what its hub has counted.

use super::{ScoreboardCollector, names::*, page::Page};
use crate::hub::{FAILURES, Lost, nats::Dropped};

impl ScoreboardCollector {
    /// Nothing is shown of a bus that is not there yet.
    pub(super) fn bus(&self, page: &mut Page) {
        let Some(hub) = self.status.hub() else {
            return;
        };
        let counters = hub.counters();
        page.gauge(&BUS_UP, &[], f64::from(u8::from(hub.is_alive())));
        for (name, counter) in [
            (&BUS_MESSAGES, &counters.received),
            (&BUS_DELIVERIES, &counters.delivered),
            (&BUS_BYTES, &counters.bytes),
            (&BUS_MALFORMED, &counters.malformed),
            (&BUS_CUT, &counters.cut),
            (&BUS_FACTS_IGNORED, &counters.facts_ignored),
        ] {
            page.counter(name, &[], counter.count() as f64);
        }
        for reason in Lost::ALL {
            let n = counters.lost(reason).count();
            page.counter(&BUS_LOST, &[("reason", reason.label())], n as f64);
        }
        for (failure, label) in FAILURES {
            let n = counters.failures(failure).count();
            page.counter(&BUS_FAILURES, &[("reason", label)], n as f64);
        }
        for (name, gauge) in [
            (&BUS_PROCESSES, &counters.processes),
            (&BUS_HUBS, &counters.hubs),
            (&BUS_QUEUED, &counters.queued_bytes),
        ] {
            page.gauge(name, &[], gauge.count() as f64);
        }
        let nats = hub.nats();
        page.gauge(&BUS_NATS_CONNECTED, &[], nats.connected() as f64);
        page.gauge(&BUS_NATS_MASTERS, &[], nats.masters() as f64);
        page.counter(&BUS_NATS_RECONNECTS, &[], nats.reconnects() as f64);
        for reason in Dropped::ALL {
            let n = nats.dropped(reason) as f64;
            page.counter(&BUS_NATS_DROPPED, &[("reason", reason.name())], n);
        }
    }
}
