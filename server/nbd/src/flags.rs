//! Flag fields ("Flag fields").

macro_rules! flags {
    ($(#[$doc:meta])* $name:ident { $($(#[$bit_doc:meta])* $bit:ident = $value:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(u16);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: Self = Self($value);)*

            /// The field as it came from the wire, unknown bits included.
            pub const fn from_bits(bits: u16) -> Self {
                Self(bits)
            }

            /// The field for the wire.
            pub const fn bits(self) -> u16 {
                self.0
            }

            /// Whether all bits of `other` are set.
            pub const fn contains(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits of either.
            pub const fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// The bits of `self` that are not in `other`.
            pub const fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }

            /// `other`'s bits added when `condition` holds.
            pub const fn with_if(self, other: Self, condition: bool) -> Self {
                if condition { self.with(other) } else { self }
            }
        }
    };
}

flags! {
    /// What an export can do ("Transmission flags").
    TransmissionFlags {
        /// Always set.
        HAS_FLAGS = 1;
        /// Writes are refused.
        READ_ONLY = 1 << 1;
        /// FLUSH is understood.
        SEND_FLUSH = 1 << 2;
        /// The FUA flag is understood.
        SEND_FUA = 1 << 3;
        /// Spinning disk.
        ROTATIONAL = 1 << 4;
        /// TRIM is understood.
        SEND_TRIM = 1 << 5;
        /// WRITE_ZEROES and NO_HOLE are understood.
        SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag is understood; only with structured replies or extended headers.
        SEND_DF = 1 << 7;
        /// A flush on one connection covers writes answered on all.
        CAN_MULTI_CONN = 1 << 8;
        /// CACHE is understood.
        SEND_CACHE = 1 << 10;
        /// FAST_ZERO is understood.
        SEND_FAST_ZERO = 1 << 11;
        /// BLOCK_STATUS takes a payload that selects contexts; only with extended headers.
        BLOCK_STATUS_PAYLOAD = 1 << 12;
    }
}

flags! {
    /// Flags of one request ("Command flags").
    CommandFlags {
        /// The reply means that the data is durable.
        FUA = 1;
        /// WRITE_ZEROES has to keep the range allocated.
        NO_HOLE = 1 << 1;
        /// READ has to be answered in one piece.
        DF = 1 << 2;
        /// BLOCK_STATUS wants one extent only.
        REQ_ONE = 1 << 3;
        /// WRITE_ZEROES has to fail unless it is fast.
        FAST_ZERO = 1 << 4;
        /// The length counts payload bytes that follow (extended headers).
        PAYLOAD_LEN = 1 << 5;
    }
}
