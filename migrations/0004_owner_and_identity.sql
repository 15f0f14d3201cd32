-- Whose sale a row is, and since when its FlashSale is gone.

ALTER TABLE sales
    ADD COLUMN cluster       VARCHAR(253)    CHARACTER SET ascii COLLATE ascii_bin NULL
        COMMENT 'identity of the Kubernetes cluster whose FlashSale owns the sale; null: claimed by none yet' AFTER name,
    ADD COLUMN missing_since BIGINT UNSIGNED NULL
        COMMENT 'unix ms at which the deletion of its FlashSale was confirmed; null: not deleted' AFTER freed_at,
    ADD COLUMN identity_at   BIGINT          NULL
        COMMENT 'the offset of its IDENTITY record; null: the log has none' AFTER cur;
