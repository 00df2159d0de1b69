"""The teachers: what each engine needs to answer so that stage one can record it."""
