"""One collection's points behind one interface, in the embedded index, in Milvus or in PostgreSQL."""
