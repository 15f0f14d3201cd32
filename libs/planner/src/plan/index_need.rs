//! What an index in force needs, by the protocol.
use seckill_protocol::index::{IndexState, Server};
use seckill_protocol::recovery::{self, FoundIndex, LedgerView, Need};
use seckill_protocol::sale::Sale;

use super::step::{SaleVersion, Step};

/// `index` is valid: it was installed on the server where it was found.
pub fn index_need(index: &IndexState, sale: &Sale) -> Need {
    let found = FoundIndex {
        epoch: index.epoch,
        rid: &index.rid,
        terms: &index.terms,
    };
    let server = Server {
        is_master: true,
        rid: index.rid.clone(),
        now: 0,
    };
    let known = LedgerView {
        cut: sale.cut,
        live_epoch: sale.live_epoch,
        terms: sale.terms(),
    };
    recovery::needed(Some(found), &server, &known)
}

/// What an index in force and the ledger have to learn from each other, also after the end of the sale.
pub(super) fn exchange_step(index: &IndexState, sale: &Sale) -> Option<Step> {
    match index_need(index, sale) {
        Need::Apply => Some(Step::ApplyTerms {
            sale: sale.id,
            epoch: index.epoch,
            terms: sale.terms(),
        }),
        Need::Renumber(version) => Some(Step::Renumber {
            sale: SaleVersion::from(sale),
            version,
        }),
        Need::Publish(epoch) => Some(Step::Publish { sale: sale.id, epoch }),
        Need::Nothing | Need::Rebuild => None,
    }
}
