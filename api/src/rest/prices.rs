//! The lines of a price, the same in quotes and bookings.

use async_graphql::SimpleObject;
use poem_openapi::Object;
use poem_openapi::types::Example;
use roost_shared::properties::pricing;

use super::mirror::mirror;

mirror! {
    /// What a price line is for.
    LineKind of pricing::LineKind {
        /// The nights at the nightly rate
        Nights,
        /// Once a stay
        CleaningFee,
        /// The platform's fee for the guest
        GuestServiceFee,
    }
}

/// One line of a price. Amounts are in the minor unit of the currency beside the total.
#[derive(Clone, Debug, Object, SimpleObject)]
#[oai(example)]
pub struct PriceLine {
    /// What it is for
    pub kind: LineKind,
    /// The same for a reader
    pub label: String,
    /// How many of them
    pub quantity: i64,
    /// What one comes to, in minor units
    pub unit_minor: i64,
    /// What all come to, in minor units
    pub amount_minor: i64,
}

impl Example for PriceLine {
    fn example() -> Self {
        Self {
            kind: LineKind::Nights,
            label: "3 nights".to_owned(),
            quantity: 3,
            unit_minor: 12_000,
            amount_minor: 36_000,
        }
    }
}

impl From<pricing::PriceLine> for PriceLine {
    fn from(line: pricing::PriceLine) -> Self {
        Self {
            kind: line.kind.into(),
            label: line.label,
            quantity: line.quantity,
            unit_minor: line.unit_minor,
            amount_minor: line.amount_minor,
        }
    }
}
