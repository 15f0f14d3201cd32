//! What an index in force needs, by the protocol.
use seckill_protocol::index::{IndexState, Server};
use seckill_protocol::recovery::{self, FoundIndex, LedgerView, Need};
use seckill_protocol::sale::Sale;

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
