//! A running sale without a FlashSale: it runs to its own end, unless a confirmed deletion ends it.
use seckill_protocol::index::SaleState;
use seckill_protocol::sale::{Sale, SaleTerms};

use super::step::{Plan, SaleVersion, Step};
use super::{ending, running};
use crate::observation::Observation;
use crate::orphan::{OrphanFate, fate};

pub(super) fn plan(observed: &Observation, sale: &Sale) -> Plan {
    let (id, now) = (sale.id, observed.now());
    let has_ended = observed.clocks.have_reached(sale.closes_at);
    let step = match fate(sale, &observed.absence, now, has_ended) {
        OrphanFate::End => return ending::begin(sale, now),
        OrphanFate::Exists => Step::Nothing,
        OrphanFate::RunsOn => keep_index(observed, sale),
        // The index has to learn that the sale is suspended. A lost index sells nothing either.
        OrphanFate::AwaitGrace => running::index_step(observed, sale).unwrap_or(Step::Nothing),
        OrphanFate::RecordDeletion => Step::RecordDeletion { sale: id, at: now },
        OrphanFate::ForgetDeletion => Step::ForgetDeletion { sale: id },
        OrphanFate::Suspend => Step::UpdateTerms {
            sale: SaleVersion::from(sale),
            terms: SaleTerms {
                state: SaleState::Suspended,
                ..sale.sale_terms()
            },
        },
    };
    Plan::without_report(step)
}

/// A sale that was preheated keeps its index. One that was not needs its FlashSale for that.
fn keep_index(observed: &Observation, sale: &Sale) -> Step {
    if sale.live_epoch.is_none() {
        return Step::Nothing;
    }
    running::index_step(observed, sale).unwrap_or_else(|| running::stock(observed, sale).0)
}
