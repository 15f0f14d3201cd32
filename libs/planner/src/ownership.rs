//! Whose sale a row of the ledger is. Several Kubernetes clusters may share a ledger: staging on production's database, a
//! cluster for disaster recovery, a laptop. A sale belongs to the cluster whose FlashSale created it.

/// The cluster of an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// Unique to the cluster, and the same for its whole life.
    pub identity: String,
    /// A cluster that is gone for good: this one takes its sales over.
    pub take_over_from: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    Ours,
    /// No cluster has claimed it yet. The operator that has its FlashSale does.
    Unclaimed,
    /// Of the cluster that this one takes over from.
    ToTakeOver,
    /// An operator never reads the index of such a sale, and never changes anything of it.
    OtherCluster,
}

impl Cluster {
    /// `owner` is the identity in the row of the sale.
    pub fn ownership(&self, owner: Option<&str>) -> Ownership {
        match owner {
            None => Ownership::Unclaimed,
            Some(owner) if owner == self.identity => Ownership::Ours,
            Some(owner) if self.take_over_from.as_deref() == Some(owner) => Ownership::ToTakeOver,
            Some(_) => Ownership::OtherCluster,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_belongs_to_the_cluster_in_its_row() {
        let mut cluster = Cluster {
            identity: "new".into(),
            take_over_from: None,
        };
        assert_eq!(cluster.ownership(Some("new")), Ownership::Ours);
        assert_eq!(cluster.ownership(Some("old")), Ownership::OtherCluster);
        assert_eq!(cluster.ownership(None), Ownership::Unclaimed);
        cluster.take_over_from = Some("old".into());
        assert_eq!(cluster.ownership(Some("old")), Ownership::ToTakeOver);
        assert_eq!(cluster.ownership(Some("third")), Ownership::OtherCluster);
        // A value that is left in place after the sales came home changes nothing.
        cluster.take_over_from = Some("new".into());
        assert_eq!(cluster.ownership(Some("new")), Ownership::Ours);
    }
}
