//! The records of the log. Each record is one JSON object, so that any Kafka tool shows it.
use serde::{Deserialize, Serialize, Serializer};

use crate::format::Format;
use crate::identity::{Identity, InvalidIdentity};
use crate::ids::{Buyer, Epoch, KeyHash, OrderId, Quantity, SaleId, Seq, Tier};
use crate::tiers::Tiers;

/// A record of the log. Each has its sale.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", try_from = "Fields")]
pub enum Record {
    /// Which sale it is, before its first barrier. The first one of a sale counts; later ones change nothing.
    Identity(Box<Identity>),
    /// A new epoch begins. The offset of the record is the epoch. The nonce identifies the coordinator, which never
    /// uses a barrier of another one.
    Barrier { sale: SaleId, nonce: String },
    /// The orders that one call of the purchase script sold.
    Batch(Batch),
    /// The total ever offered. It only rises: the total of a sale is the highest one before CLOSE.
    Total { sale: SaleId, total: u64 },
    /// An order ends and its units return.
    Cancel {
        sale: SaleId,
        epoch: Epoch,
        seq: Seq,
        reason: String,
    },
    /// An order is paid for.
    Paid {
        sale: SaleId,
        epoch: Epoch,
        seq: Seq,
        reference: String,
    },
    /// The end. Later records, including barriers, change neither the stock nor the existence of orders.
    Close { sale: SaleId },
}

/// Orders with consecutive sequence numbers from `first`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Batch {
    pub sale: SaleId,
    pub epoch: Epoch,
    pub first: Seq,
    pub orders: Vec<Order>,
}

impl Batch {
    /// Maximum number of orders in one record, and of requests in one script call.
    pub const MAX_ORDERS: usize = 128;

    /// The sequence number of the last order.
    pub fn last(&self) -> Seq {
        self.first + (self.orders.len() as Seq).saturating_sub(1)
    }

    /// The orders with their keys.
    pub fn iter(&self) -> impl Iterator<Item = (OrderId, &Order)> {
        let (sale, epoch, first) = (self.sale, self.epoch, self.first);
        self.orders.iter().enumerate().map(move |(i, order)| {
            (
                OrderId {
                    sale,
                    epoch,
                    seq: first + i as Seq,
                },
                order,
            )
        })
    }
}

/// All fields of all records. It is used instead of a tagged enum, for which serde would first buffer a copy of the
/// whole record.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "type")]
    kind: Kind,
    sale: SaleId,
    nonce: Option<String>,
    epoch: Option<Epoch>,
    first: Option<Seq>,
    orders: Option<Vec<Order>>,
    total: Option<u64>,
    seq: Option<Seq>,
    reason: Option<String>,
    reference: Option<String>,
    format: Option<Format>,
    class: Option<String>,
    namespace: Option<String>,
    name: Option<String>,
    cluster: Option<String>,
    uid: Option<String>,
    item: Option<serde_json::Value>,
    item_id: Option<i64>,
    issuer: Option<String>,
    tiers: Option<Tiers>,
    price: Option<String>,
    currency: Option<String>,
    offered: Option<u64>,
    starts_at: Option<u64>,
    ends_at: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Identity,
    Barrier,
    Batch,
    Total,
    Cancel,
    Paid,
    Close,
}

#[derive(Debug, thiserror::Error)]
#[error("missing field `{0}`")]
struct Missing(&'static str);

impl TryFrom<Fields> for Record {
    type Error = Missing;

    fn try_from(fields: Fields) -> Result<Self, Missing> {
        let sale = fields.sale;
        let epoch = fields.epoch.ok_or(Missing("epoch"));
        let seq = fields.seq.ok_or(Missing("seq"));
        Ok(match fields.kind {
            Kind::Identity => Record::Identity(Box::new(Identity {
                sale,
                format: fields.format.unwrap_or(Format::FIRST),
                class: fields.class.ok_or(Missing("class"))?,
                namespace: fields.namespace.ok_or(Missing("namespace"))?,
                name: fields.name.ok_or(Missing("name"))?,
                cluster: fields.cluster,
                uid: fields.uid.ok_or(Missing("uid"))?,
                item: fields.item.ok_or(Missing("item"))?,
                item_id: fields.item_id,
                issuer: fields.issuer,
                tiers: fields.tiers,
                price: fields.price.ok_or(Missing("price"))?,
                currency: fields.currency.ok_or(Missing("currency"))?,
                offered: fields.offered.ok_or(Missing("offered"))?,
                starts_at: fields.starts_at.ok_or(Missing("starts_at"))?,
                ends_at: fields.ends_at.ok_or(Missing("ends_at"))?,
            })),
            Kind::Barrier => Record::Barrier {
                sale,
                nonce: fields.nonce.ok_or(Missing("nonce"))?,
            },
            Kind::Batch => Record::Batch(Batch {
                sale,
                epoch: epoch?,
                first: fields.first.ok_or(Missing("first"))?,
                orders: fields.orders.ok_or(Missing("orders"))?,
            }),
            Kind::Total => Record::Total {
                sale,
                total: fields.total.ok_or(Missing("total"))?,
            },
            Kind::Cancel => Record::Cancel {
                sale,
                epoch: epoch?,
                seq: seq?,
                reason: fields.reason.ok_or(Missing("reason"))?,
            },
            Kind::Paid => Record::Paid {
                sale,
                epoch: epoch?,
                seq: seq?,
                reference: fields.reference.ok_or(Missing("reference"))?,
            },
            Kind::Close => Record::Close { sale },
        })
    }
}

/// `[buyer, quantity, tier, key hash]`: a tuple, as the purchase script writes it into the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "OrderTuple")]
pub struct Order {
    pub buyer: Buyer,
    pub quantity: Quantity,
    pub tier: Tier,
    pub key: KeyHash,
}

type OrderTuple = (Buyer, Quantity, Tier, KeyHash);

impl From<OrderTuple> for Order {
    fn from((buyer, quantity, tier, key): OrderTuple) -> Self {
        Order {
            buyer,
            quantity,
            tier,
            key,
        }
    }
}

impl Serialize for Order {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        (&self.buyer, self.quantity, self.tier, self.key).serialize(s)
    }
}

/// Bytes in the log that are not a record: another program or a newer version wrote them.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("not a record of the order log: {0}")]
    Json(#[from] serde_json::Error),
    #[error("a batch of {0} orders; expected 1 to {max}", max = Batch::MAX_ORDERS)]
    BatchSize(usize),
    #[error("sequence number {0}; expected 1 or more, and no overflow")]
    Seq(Seq),
    #[error("an order of quantity 0")]
    Quantity,
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
}

impl Record {
    pub fn sale(&self) -> SaleId {
        match self {
            Record::Batch(batch) => batch.sale,
            Record::Identity(identity) => identity.sale,
            Record::Barrier { sale, .. }
            | Record::Total { sale, .. }
            | Record::Cancel { sale, .. }
            | Record::Paid { sale, .. }
            | Record::Close { sale } => *sale,
        }
    }

    /// The order whose status the record changes.
    pub fn changed_order(&self) -> Option<OrderId> {
        match *self {
            Record::Cancel { sale, epoch, seq, .. } | Record::Paid { sale, epoch, seq, .. } => {
                Some(OrderId { sale, epoch, seq })
            }
            _ => None,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        // to_vec fails only for a map with keys that are not strings or a failing Serialize. Neither exists here.
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Record = serde_json::from_slice(bytes)?;
        if let Record::Identity(identity) = &record {
            identity.validate()?;
        }
        if let Record::Batch(batch) = &record {
            if batch.orders.is_empty() || batch.orders.len() > Batch::MAX_ORDERS {
                return Err(RecordError::BatchSize(batch.orders.len()));
            }
            if batch.first == 0 || batch.first.checked_add(batch.orders.len() as Seq).is_none() {
                return Err(RecordError::Seq(batch.first));
            }
            if batch.orders.iter().any(|o| o.quantity == 0) {
                return Err(RecordError::Quantity);
            }
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;
    use crate::tiers::tests::tiers;

    fn order(key: &str) -> Order {
        Order {
            buyer: Buyer::anonymous(key),
            quantity: 1,
            tier: 0,
            key: KeyHash::of(key),
        }
    }

    #[test]
    fn every_record_round_trips_through_bytes() {
        let sale = SaleId(7);
        let claimed = Identity {
            cluster: Some("c".into()),
            item_id: None,
            ..identity(sale)
        };
        let records = [
            Record::Identity(Box::new(identity(sale))),
            Record::Identity(Box::new(claimed)),
            Record::Identity(Box::new(Identity {
                format: Format(2),
                issuer: Some("main".into()),
                ..identity(sale)
            })),
            Record::Identity(Box::new(Identity {
                format: Format(3),
                issuer: Some("main".into()),
                tiers: Some(tiers()),
                ..identity(sale)
            })),
            Record::Barrier {
                sale,
                nonce: "n".into(),
            },
            Record::Batch(Batch {
                sale,
                epoch: Epoch(3),
                first: 1,
                orders: vec![order("k"), order("l")],
            }),
            Record::Total { sale, total: 10 },
            Record::Cancel {
                sale,
                epoch: Epoch(3),
                seq: 1,
                reason: "buyer".into(),
            },
            Record::Paid {
                sale,
                epoch: Epoch(3),
                seq: 1,
                reference: "r".into(),
            },
            Record::Close { sale },
        ];
        for record in records {
            assert_eq!(Record::decode(&record.encode()).expect("decodes"), record);
        }
    }

    #[test]
    fn the_bytes_of_a_batch_match_the_documentation() {
        let batch = Batch {
            sale: SaleId(7),
            epoch: Epoch(3),
            first: 5,
            orders: vec![order("k")],
        };
        let buyer = Buyer::anonymous("k");
        let key = KeyHash::of("k");
        assert_eq!(
            String::from_utf8(Record::Batch(batch).encode()).expect("UTF-8"),
            format!(r#"{{"type":"batch","sale":"00000007","epoch":3,"first":5,"orders":[["{buyer}",1,0,"{key}"]]}}"#)
        );
    }

    #[test]
    fn the_bytes_of_an_identity_match_the_documentation() {
        let record = Record::Identity(Box::new(identity(SaleId(7))));
        let expected = concat!(
            r#"{"type":"identity","sale":"00000007","class":"default","namespace":"shop","name":"phone","#,
            r#""uid":"8f0c2f5e-0000-4000-8000-000000000000","item":{"sku":"p1"},"item_id":7,"price":"9.90","#,
            r#""currency":"EUR","offered":100,"starts_at":1000,"ends_at":2000}"#
        );
        assert_eq!(String::from_utf8(record.encode()).expect("UTF-8"), expected);
        let with_issuer = Record::Identity(Box::new(Identity {
            format: Format(2),
            issuer: Some("main".into()),
            ..identity(SaleId(7))
        }));
        let bytes = String::from_utf8(with_issuer.encode()).expect("UTF-8");
        let second = expected
            .replace(r#""sale":"00000007","#, r#""sale":"00000007","format":2,"#)
            .replace(r#""item_id":7,"#, r#""item_id":7,"issuer":"main","#);
        assert_eq!(bytes, second);
        let with_tiers = Record::Identity(Box::new(Identity {
            format: Format(3),
            issuer: Some("main".into()),
            tiers: Some(tiers()),
            ..identity(SaleId(7))
        }));
        let bytes = String::from_utf8(with_tiers.encode()).expect("UTF-8");
        let tiers = concat!(
            r#""tiers":{"tiers":[{"name":"gold","values":["gold","vip"],"opens_before_seconds":600,"reserved":200,"#,
            r#""reserved_for_seconds":300},{"name":"silver","values":["silver"],"opens_before_seconds":60}],"#,
            r#""reserved_for_general":5000},"#
        );
        let third = second
            .replace(r#""format":2"#, r#""format":3"#)
            .replace(r#""price""#, &format!(r#"{tiers}"price""#));
        assert_eq!(bytes, third);
        for field in [
            "class",
            "namespace",
            "name",
            "uid",
            "item",
            "price",
            "currency",
            "offered",
            "starts_at",
            "ends_at",
        ] {
            let mut fields: serde_json::Value = serde_json::from_str(expected).expect("JSON");
            fields.as_object_mut().expect("an object").remove(field);
            let error = Record::decode(fields.to_string().as_bytes()).expect_err(field);
            assert!(error.to_string().contains(field), "{error}");
        }
        let too_long = expected.replace("phone", &"p".repeat(254));
        assert!(Record::decode(too_long.as_bytes()).is_err());
    }

    #[test]
    fn a_batch_has_at_most_128_orders() {
        let batch = |orders| Batch {
            sale: SaleId(7),
            epoch: Epoch(3),
            first: 5,
            orders: vec![order("k"); orders],
        };
        assert_eq!(batch(128).last(), 132);
        assert!(Record::decode(&Record::Batch(batch(128)).encode()).is_ok());
        let larger = Record::decode(&Record::Batch(batch(129)).encode());
        assert!(matches!(larger, Err(RecordError::BatchSize(129))), "{larger:?}");
    }

    #[test]
    fn invalid_records_are_refused() {
        let bad = [
            "",
            "{}",
            "null",
            r#"{"type":"refund","sale":"00000007"}"#,
            r#"{"type":"close"}"#,
            r#"{"sale":"00000007"}"#,
            r#"{"type":"barrier","sale":"00000007"}"#,
            r#"{"type":"total","sale":"00000007","total":null}"#,
            r#"{"type":"cancel","sale":"00000007","epoch":3,"reason":"buyer"}"#,
            r#"{"type":"paid","sale":"00000007","seq":3,"reference":"r"}"#,
            r#"{"type":"close","sale":"00000007","sale":"00000008"}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"orders":[["a:x",1,0,"0000000000000000"]]}"#,
            r#"{"type":"close","sale":7}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"first":1,"orders":[]}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"first":0,"orders":[["a:x",1,0,"0000000000000000"]]}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"first":1,"orders":[["a:x",0,0,"0000000000000000"]]}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"first":1,"orders":[["a x",1,0,"0000000000000000"]]}"#,
            r#"{"type":"batch","sale":"00000007","epoch":3,"first":18446744073709551615,"orders":[["a:x",1,0,"0000000000000000"]]}"#,
        ];
        for bytes in bad {
            assert!(Record::decode(bytes.as_bytes()).is_err(), "{bytes}");
        }
    }
}
