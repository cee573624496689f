//! What the tests of identities and TLS share.
