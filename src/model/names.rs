//! The names of things, as cheap as a number to hand on.
//!
//! They are not checked: that is up to whoever reads them. Invariant: equal text is an equal name.

use std::fmt;
use std::sync::Arc;

/// Declares a cheap-to-clone string newtype.
macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The name as shared text.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.0)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

name! {
    /// A mesh namespace, such as `prod`.
    Namespace
}
name! {
    /// The discovery name of a service inside its namespace, such as `payments`.
    ServiceName
}
name! {
    /// What runs: an ECS task ARN, a Cloud Map instance id, or a name given in a file. Never an address,
    /// because addresses are reused.
    InstanceId
}

/// A service across namespaces.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    /// Where the name is unique.
    pub namespace: Namespace,
    /// The discovery name.
    pub name: ServiceName,
}

impl ServiceKey {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: impl Into<Namespace>, name: impl Into<ServiceName>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
