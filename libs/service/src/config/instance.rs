use std::str::FromStr;

use seckill_ledger::{FORMAT, Format};

use super::Expected;

/// What the other programs know of this one.
#[derive(Clone, Debug, clap::Args)]
pub struct InstanceArgs {
    /// The name of the pod: the identity of this program among those that share the database, and of the leader
    #[arg(long, env = "SECKILL_POD_NAME", value_name = "seckill-5d8f-x2x4z")]
    pub pod_name: Option<ObjectName>,
    #[command(flatten)]
    pub format: FormatArgs,
}

/// The format of the program.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct FormatArgs {
    /// The format that this program speaks. Tests start a program that is older or newer than this code
    #[cfg_attr(feature = "failpoints", arg(long, env = "SECKILL_SPOKEN_FORMAT", hide = true, default_value_t = FORMAT))]
    #[cfg_attr(not(feature = "failpoints"), arg(skip = FORMAT))]
    pub spoken_format: Format,
}

/// The sales that an operator creates.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct NewSalesArgs {
    /// The format that each new sale needs at least. Tests create sales of a format that this code does not have
    #[cfg_attr(feature = "failpoints", arg(long, hide = true, default_value_t = Format::FIRST))]
    #[cfg_attr(not(feature = "failpoints"), arg(skip = Format::FIRST))]
    pub new_sales_need: Format,
}

impl InstanceArgs {
    /// The name of the pod, or a random one that is another at each call.
    pub fn instance(&self) -> String {
        match &self.pod_name {
            Some(name) => name.0.clone(),
            None => format!("process-{:08x}", rand::random::<u32>()),
        }
    }
}

/// A valid name of an object or a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(pub String);

impl FromStr for ObjectName {
    type Err = Expected;
    fn from_str(s: &str) -> Result<Self, Expected> {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        let at_its_ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if s.len() <= 253 && s.chars().all(inside) && s.starts_with(at_its_ends) && s.ends_with(at_its_ends) {
            Ok(ObjectName(s.to_owned()))
        } else {
            Err(Expected::new(
                "a valid Kubernetes name: at most 253 lower case letters, digits, hyphens and dots, \
                 with a letter or digit at both ends",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_kubernetes_names_are_accepted() {
        for right in ["seckill-operator", "a", "a.b-1", &"a".repeat(253)] {
            assert_eq!(right.parse::<ObjectName>().map(|name| name.0).as_deref(), Ok(right));
        }
        for wrong in ["", "Seckill", "-a", "a-", "a_b", "a/b", &"a".repeat(254)] {
            assert!(wrong.parse::<ObjectName>().is_err(), "{wrong}");
        }
    }
}
