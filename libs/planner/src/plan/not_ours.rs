//! A sale that does not belong to the cluster of this operator: refused, or claimed.
use seckill_protocol::index::SaleState;
use seckill_protocol::sale::Sale;

use super::name_used;
use super::report::refusal;
use super::step::{Plan, Step};
use crate::condition::Reason;
use crate::observation::Observation;
use crate::ownership::Ownership;
use crate::sale::Standing;

pub(super) fn plan(observed: &Observation, sale: &Sale, ownership: Ownership) -> Plan {
    let claim = || {
        Plan::without_report(Step::Claim {
            sale: sale.id,
            from: sale.cluster.clone(),
            cluster: observed.cluster.identity.clone(),
        })
    };
    let has_ended = sale.state == SaleState::Closed || observed.clocks.have_reached(sale.closes_at);
    match (&observed.desired, ownership) {
        (Some(_), Ownership::OtherCluster) => refused(observed, sale),
        // Nobody else settles a sale of a cluster that is gone for good.
        (_, Ownership::ToTakeOver) if has_ended => claim(),
        (Some(desired), _) if name_used::is_used(desired, sale) && !name_used::may_free_name(sale) => Plan {
            step: Step::Nothing,
            ..name_used::plan(observed, sale)
        },
        (Some(_), _) => claim(),
        (None, _) => Plan::without_report(Step::Nothing),
    }
}

fn refused(observed: &Observation, sale: &Sale) -> Plan {
    let owner = sale.cluster.as_deref().unwrap_or_default();
    let message = format!(
        "metadata.name: the sale named {} belongs to the cluster {owner}, and this one is {}; choose another name or \
         spec.className, use a database of its own, or, if that cluster is gone for good, set the value takeOverFrom of \
         this release to {owner}",
        sale.name, observed.cluster.identity
    );
    Plan {
        standing: Standing::Refused,
        report: Some(refusal(Reason::OtherCluster, &message)),
        ..Plan::without_report(Step::Nothing)
    }
}
