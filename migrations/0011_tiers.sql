-- Tiers of buyers. The key of 0006 has the tier too, so that a rebuild needs no other page.

ALTER TABLE sales
    ADD COLUMN tiers       JSON NULL COMMENT 'names, values, openings, reserves; null: all buyers are equal' AFTER issuer,
    ADD COLUMN tier_limits JSON NULL COMMENT 'units of one buyer of each tier; 0 = none' AFTER limit_per_buyer;

ALTER TABLE orders
    DROP KEY buyer,
    ADD KEY buyer (sale, buyer, epoch, seq, quantity, tier, key_hash, status);
