//! The status of an order.
use crate::record::Record;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OrderStatus {
    Placed,
    PendingPayment,
    Paid,
    Cancelled,
    Expired,
}

impl OrderStatus {
    const ALL: [OrderStatus; 5] = [
        OrderStatus::Placed,
        OrderStatus::PendingPayment,
        OrderStatus::Paid,
        OrderStatus::Cancelled,
        OrderStatus::Expired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            OrderStatus::Placed => "placed",
            OrderStatus::PendingPayment => "pending_payment",
            OrderStatus::Paid => "paid",
            OrderStatus::Cancelled => "cancelled",
            OrderStatus::Expired => "expired",
        }
    }

    pub fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Whether the order takes units from the stock.
    pub fn is_live(self) -> bool {
        !matches!(self, OrderStatus::Cancelled | OrderStatus::Expired)
    }

    /// The status after a CANCEL; `None` if it is not allowed. The first of CANCEL and PAID in the log wins.
    pub fn cancelled(self, reason: &str) -> Option<Self> {
        match self {
            OrderStatus::Placed | OrderStatus::PendingPayment if reason == "expired" => Some(OrderStatus::Expired),
            OrderStatus::Placed | OrderStatus::PendingPayment => Some(OrderStatus::Cancelled),
            _ => None,
        }
    }

    /// The status after a PAID; `None` if it is not allowed.
    pub fn paid(self) -> Option<Self> {
        match self {
            OrderStatus::Placed | OrderStatus::PendingPayment => Some(OrderStatus::Paid),
            _ => None,
        }
    }

    /// The status after a record of the order. A change that is not allowed is none.
    pub fn after(self, record: &Record) -> Self {
        match record {
            Record::Cancel { reason, .. } => self.cancelled(reason).unwrap_or(self),
            Record::Paid { .. } => self.paid().unwrap_or(self),
            _ => self,
        }
    }
}

/// What a number of records, one after the other, does to an order whose status is not known yet. Its size does not
/// depend on the number of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusChanges([OrderStatus; OrderStatus::ALL.len()]);

impl Default for StatusChanges {
    fn default() -> Self {
        StatusChanges(OrderStatus::ALL)
    }
}

impl StatusChanges {
    pub fn add(&mut self, record: &Record) {
        self.0 = self.0.map(|status| status.after(record));
    }

    pub fn apply(&self, status: OrderStatus) -> OrderStatus {
        let before = OrderStatus::ALL.iter().position(|known| *known == status);
        before.map_or(status, |at| self.0[at])
    }
}

#[cfg(test)]
mod tests {
    use super::OrderStatus::*;

    #[test]
    fn the_first_of_cancel_and_paid_wins() {
        assert_eq!(Placed.cancelled("buyer"), Some(Cancelled));
        assert_eq!(PendingPayment.cancelled("expired"), Some(Expired));
        assert_eq!(Placed.paid(), Some(Paid));
        assert_eq!(Cancelled.paid(), None);
        assert_eq!(Expired.paid(), None);
        assert_eq!(Paid.cancelled("buyer"), None);
        assert_eq!(Cancelled.cancelled("buyer"), None);
    }

    #[test]
    fn a_status_round_trips_through_text() {
        for status in super::OrderStatus::ALL {
            assert_eq!(super::OrderStatus::from_text(status.as_str()), Some(status));
        }
        assert_eq!(super::OrderStatus::from_text("refunded"), None);
    }
}
