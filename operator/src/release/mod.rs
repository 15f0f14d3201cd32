//! What the sales of a release share.
pub mod indexes;
pub mod orphans;
pub mod scale;
pub mod servers;
