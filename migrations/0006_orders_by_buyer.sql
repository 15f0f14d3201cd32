-- The rebuild of an index reads the orders of a sale by buyer. The key has all columns that it needs: otherwise the server
-- would look up each order in the primary key, several times slower, and with random reads if the orders do not fit into
-- memory.

ALTER TABLE orders
    DROP KEY buyer,
    ADD KEY buyer (sale, buyer, epoch, seq, quantity, key_hash, status);
