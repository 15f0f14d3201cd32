-- The settlement is a fact of the ledger, so that one who was interrupted or came second finds what was found.

ALTER TABLE sales
    ADD COLUMN settled_left BIGINT UNSIGNED NULL COMMENT 'units that the index had left then; null: there was no index' AFTER settled_at,
    ADD COLUMN freed_at     DATETIME(3)     NULL COMMENT 'Redis holds nothing of it any more' AFTER settled_left,
    ADD KEY freed (freed_at);

-- Sales of before were freed first.
UPDATE sales SET freed_at = settled_at WHERE settled_at IS NOT NULL;
