//! The one thread that touches the store: it gathers operations into transactions, and reports what became of them.
