-- What the log did to units after they were sold, and what the index has still to be told of it.

ALTER TABLE sales
    ADD COLUMN taken    BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'units of all orders, live or not' AFTER sold,
    ADD COLUMN returned BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'units of orders that ended before CLOSE' AFTER taken;

-- Sales of before have no orders that ended: nothing could end one.
UPDATE sales SET taken = sold;

-- Written in the transaction that moves the position, removed once the index has answered.
CREATE TABLE effects (
    part  INT UNSIGNED    NOT NULL,
    off   BIGINT          NOT NULL COMMENT 'of the CANCEL or TOTAL',
    sale  INT UNSIGNED    NOT NULL,
    since BIGINT          NOT NULL COMMENT 'the epoch in force at the offset: older indexes are not told',
    -- A cancelled order:
    buyer VARCHAR(128)    CHARACTER SET ascii COLLATE ascii_bin NULL,
    epoch BIGINT          NULL,
    seq   BIGINT UNSIGNED NULL,
    -- or a raised total:
    total BIGINT UNSIGNED NULL,
    PRIMARY KEY (part, off),
    KEY sale (sale)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;
