//! Tests of the policy: see the tables in `testdata`.
