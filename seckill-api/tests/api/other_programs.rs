//! The parts of the operator and of order-worker that the tests need.
use futures::TryStreamExt as _;
use seckill_ledger::{LogEntry, NewSale, Offer, Sale, SaleTerms};
use seckill_order_log::Entry;
use seckill_protocol::sale::needed_format;
use seckill_protocol::{Epoch, Format, Offset, Record, Tiers};
use seckill_stock::{Install, Installed};
use serde_json::json;
use uuid::Uuid;

use crate::harness::{CLASS, Harness, PART, key};

impl Harness {
    /// A sale in the ledger, known to the API, without an index.
    pub async fn announce(&self, units: u64, terms: SaleTerms) -> Sale {
        self.announce_item(units, terms, None).await
    }

    pub async fn announce_item(&self, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        self.announce_on(PART, units, terms, item_id).await
    }

    pub async fn announce_on(&self, partition: u32, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        let sale = self.write_sale(partition, units, terms, item_id).await;
        self.refresh().await;
        sale
    }

    /// A sale in the ledger that the API does not know yet.
    pub async fn write_sale(&self, partition: u32, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        let new = new_sale(partition, units, terms, item_id);
        self.ledger.create_sale(&new).await.expect("MySQL answers")
    }

    /// A sale whose index is in force, and whose buyers have an identity of this issuer.
    pub async fn sell_to(&self, issuer: &str, units: u64, terms: SaleTerms) -> Sale {
        self.sell_item_to(issuer, units, terms, None).await
    }

    pub async fn sell_item_to(&self, issuer: &str, units: u64, terms: SaleTerms, item_id: Option<i64>) -> Sale {
        self.sell_tiers_to(issuer, None, units, terms, item_id).await
    }

    pub async fn sell_tiers_to(
        &self,
        issuer: &str,
        tiers: Option<Tiers>,
        units: u64,
        terms: SaleTerms,
        item_id: Option<i64>,
    ) -> Sale {
        let mut new = new_sale(PART, units, terms, item_id);
        (new.offer.issuer, new.offer.tiers) = (Some(issuer.to_owned()), tiers);
        new.format = needed_format(&new.offer, &new.terms);
        let sale = self.ledger.create_sale(&new).await.expect("MySQL answers");
        self.refresh().await;
        self.preheat(&sale).await;
        sale
    }

    /// A sale whose index is in force.
    pub async fn sell(&self, units: u64, terms: SaleTerms) -> Sale {
        let sale = self.announce(units, terms).await;
        self.preheat(&sale).await;
        sale
    }

    /// The first index of a sale, as the operator builds it. Nothing was sold before, so there is nothing to fold.
    pub async fn preheat(&self, sale: &Sale) -> Epoch {
        let epoch = self.preheat_without_refresh(sale).await;
        self.refresh().await;
        epoch
    }

    pub async fn preheat_without_refresh(&self, sale: &Sale) -> Epoch {
        self.append(&Record::Identity(Box::new(sale.identity()))).await;
        let epoch = self.barrier(sale).await;
        let total = Record::Total {
            sale: sale.id,
            total: sale.offered,
        };
        self.append(&total).await;
        self.put_in_force(sale, epoch).await;
        epoch
    }

    pub async fn barrier(&self, sale: &Sale) -> Epoch {
        let barrier = Record::Barrier {
            sale: sale.id,
            nonce: key(),
        };
        Epoch(self.append(&barrier).await)
    }

    /// Installs an index without holdings, and refreshes the API.
    pub async fn install(&self, sale: &Sale, epoch: Epoch) {
        self.put_in_force(sale, epoch).await;
        self.refresh().await;
    }

    async fn put_in_force(&self, sale: &Sale, epoch: Epoch) {
        let index = Install {
            epoch,
            total: sale.offered,
            left: sale.offered,
            holders: 0,
            orders: 0,
            taken: vec![0; sale.terms().tiers.len()],
            terms: sale.terms(),
        };
        self.install_index(sale, &index).await;
    }

    async fn install_index(&self, sale: &Sale, index: &Install) {
        let installed = self.stock.install(sale.id, index).await;
        assert_eq!(installed.expect("Redis answers"), Installed::Done);
        let recorded = self.ledger.set_live_epoch(sale.id, index.epoch).await;
        recorded.expect("MySQL answers");
    }

    /// A rebuild by the operator: a barrier, and a new index from all records before it.
    pub async fn rebuild(&self, sale: &Sale) {
        let epoch = self.barrier(sale).await;
        let mut snapshot = self.ledger.sale_snapshot(sale.id).await.expect("MySQL answers");
        let (mut delta, position) = (snapshot.delta(), snapshot.position);
        let each = |entry: Entry| delta.read(entry.offset, &entry.record.expect("a record"));
        self.log
            .read(PART, position, epoch.0, each)
            .await
            .expect("Kafka answers");
        let (total, mut merge, mut holders) = (delta.total(), delta.merge(), Vec::new());
        let stored: Vec<_> = snapshot.orders().try_concat().await.expect("MySQL answers");
        for (id, order) in stored {
            merge.stored(id, order, &mut holders);
        }
        let counts = merge.finish(&mut holders);
        let mut writer = self.stock.write_holdings(sale.id, epoch).await.expect("Redis answers");
        writer.write(&holders).await.expect("Redis answers");
        writer.finish().await.expect("Redis answers");
        let index = Install {
            epoch,
            total,
            left: total.checked_sub(counts.units).expect("no oversell"),
            holders: counts.holders,
            orders: counts.orders,
            taken: counts.taken(&sale.terms()),
            terms: sale.terms(),
        };
        self.install_index(sale, &index).await;
    }

    /// The operator applies a changed FlashSale. The start is fixed by now.
    pub async fn change(&self, sale: &Sale, terms: SaleTerms) {
        let now = self.row(sale).await;
        let terms = SaleTerms {
            opens_at: now.opens_at,
            ..terms
        };
        let changed = self.ledger.update_terms(sale.id, now.version, &terms).await;
        assert!(changed.expect("MySQL answers"));
        let now = self.row(sale).await;
        let epoch = now.live_epoch.expect("an index is in force");
        let applied = self.stock.apply(sale.id, epoch, &now.terms()).await;
        applied.expect("Redis answers");
        self.refresh().await;
    }

    /// The end of a sale, as the operator and order-worker do it.
    pub async fn settle(&self, sale: &Sale) {
        self.append(&Record::Close { sale: sale.id }).await;
        self.store().await;
        assert!(self.ledger.set_settled(sale.id, None).await.expect("MySQL answers"));
        self.stock.drop_sale(sale.id).await.expect("Redis answers");
    }

    /// Applies the pending stock adjustments of a sale, as order-worker does.
    pub async fn adjust(&self, sale: &Sale) {
        let pending = self
            .ledger
            .pending_adjustments(PART, sale.id, 100)
            .await
            .expect("MySQL answers");
        if !pending.is_empty() {
            let applied = self
                .stock
                .apply_adjustments(sale.id, &pending)
                .await
                .expect("Redis answers");
            assert!(applied.iter().all(|outcome| outcome.is_final()), "{applied:?}");
        }
        let offsets: Vec<Offset> = pending.iter().map(|pending| pending.offset).collect();
        let deleted = self.ledger.delete_adjustments(PART, &offsets).await;
        deleted.expect("MySQL answers");
    }

    pub async fn row(&self, sale: &Sale) -> Sale {
        let row = self.ledger.sale(sale.id).await.expect("MySQL answers");
        row.expect("the row exists")
    }

    pub async fn append(&self, record: &Record) -> Offset {
        self.log.append(PART, record).await.expect("Kafka answers")
    }

    /// Stores all records of the log, as order-worker does.
    pub async fn store(&self) {
        let from = self.ledger.ensure_position(PART).await.expect("MySQL answers");
        let to = self.log.end_offset(PART).await.expect("Kafka answers");
        if to == from {
            return;
        }
        let mut entries = Vec::new();
        let each = |entry: Entry| {
            entries.push(LogEntry {
                offset: entry.offset,
                timestamp_ms: entry.timestamp_ms,
                record: entry.record,
                payload: entry.payload,
            });
        };
        self.log.read(PART, from, to, each).await.expect("Kafka answers");
        self.ledger.store(PART, from, to, &entries).await.expect("stores");
    }
}

fn new_sale(partition: u32, units: u64, terms: SaleTerms, item_id: Option<i64>) -> NewSale {
    NewSale {
        cluster: None,
        class: CLASS.into(),
        namespace: "shop".into(),
        name: format!("sale-{:08x}", rand::random::<u32>()),
        uid: Uuid::new_v4().to_string(),
        partition,
        format: Format::FIRST,
        terms,
        offer: Offer {
            item: json!({ "sku": "p1", "name": "Phone", "description": "A phone.", "price": "499" }),
            item_id,
            issuer: None,
            tiers: None,
            price: "499".into(),
            currency: "EUR".into(),
            offered: units,
        },
    }
}
