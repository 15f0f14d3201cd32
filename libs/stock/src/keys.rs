//! Names of the keys in Redis. All keys of a sale share one hash tag, so that one script may use them.
use seckill_protocol::{Epoch, SaleId};

/// A hash with the figures and terms of the sale.
pub fn figures(sale: SaleId) -> String {
    format!("{{{sale}}}:m")
}

/// A hash from buyer to holdings.
pub fn holdings(sale: SaleId, epoch: Epoch) -> String {
    format!("{}{epoch}", holdings_prefix(sale))
}

pub fn holdings_prefix(sale: SaleId) -> String {
    format!("{{{sale}}}:u:")
}

/// A hash with the numbers of orders and live units that were written under [`holdings`], until the index is installed.
pub fn written(sale: SaleId, epoch: Epoch) -> String {
    format!("{}{epoch}", written_prefix(sale))
}

fn written_prefix(sale: SaleId) -> String {
    format!("{{{sale}}}:w:")
}

/// The outbox, a stream with an entry for each batch.
pub fn outbox(sale: SaleId, epoch: Epoch) -> String {
    format!("{}{epoch}", outbox_prefix(sale))
}

pub fn outbox_prefix(sale: SaleId) -> String {
    format!("{{{sale}}}:l:")
}

/// Matches every key of a sale.
pub fn all(sale: SaleId) -> String {
    format!("{{{sale}}}:*")
}

/// The epoch in the name of a key of the sale.
pub fn epoch_of(sale: SaleId, key: &str) -> Option<Epoch> {
    let epoch = key
        .strip_prefix(&holdings_prefix(sale))
        .or_else(|| key.strip_prefix(&written_prefix(sale)))
        .or_else(|| key.strip_prefix(&outbox_prefix(sale)))?;
    epoch.parse().ok().map(Epoch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_is_parsed_from_key_names() {
        let (sale, epoch) = (SaleId(0xab), Epoch(17));
        assert_eq!(figures(sale), "{000000ab}:m");
        assert_eq!(epoch_of(sale, &holdings(sale, epoch)), Some(epoch));
        assert_eq!(epoch_of(sale, &written(sale, epoch)), Some(epoch));
        assert_eq!(epoch_of(sale, &outbox(sale, epoch)), Some(epoch));
        assert_eq!(epoch_of(sale, &figures(sale)), None);
        assert_eq!(epoch_of(SaleId(1), &outbox(sale, epoch)), None);
    }
}
