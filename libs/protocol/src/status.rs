//! The status of an order.

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
