//! Enums of the domain on the wire.

/// Defines an API enum with the variants of a domain enum, and both conversions. A variant that is missing on either
/// side does not compile. Names on the wire are in snake case, as the domain has them;
/// in GraphQL they are the same in upper case.
macro_rules! mirror {
    ($(#[$about:meta])* $name:ident of $domain:path { $($(#[$variant_about:meta])* $variant:ident),+ $(,)? }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, poem_openapi::Enum, async_graphql::Enum)]
        #[oai(rename_all = "snake_case")]
        pub enum $name {
            $($(#[$variant_about])* $variant),+
        }

        impl From<$domain> for $name {
            fn from(value: $domain) -> Self {
                use $domain as Domain;
                match value {
                    $(Domain::$variant => Self::$variant),+
                }
            }
        }

        impl From<$name> for $domain {
            fn from(value: $name) -> Self {
                use $domain as Domain;
                match value {
                    $($name::$variant => Domain::$variant),+
                }
            }
        }
    };
}

pub(crate) use mirror;
