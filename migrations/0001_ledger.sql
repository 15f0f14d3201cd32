-- The ledger: a view of the order log. Only `sales` holds what is not in the log: what an operator was told by a FlashSale.
-- Times are UTC. DATETIME, not TIMESTAMP, which ends in 2038.

-- One row a sale, for ever. Kafka offsets are NULL until they exist.
CREATE TABLE sales (
    id              INT UNSIGNED    NOT NULL COMMENT 'drawn at random, never used again',
    class           VARCHAR(63)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    namespace       VARCHAR(63)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    name            VARCHAR(253)    CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    uid             VARCHAR(36)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'of the FlashSale that made the sale',
    part            INT UNSIGNED    NOT NULL COMMENT 'its partition of the log, for its life',
    version         BIGINT UNSIGNED NOT NULL COMMENT 'rises with each change of the terms',
    state           VARCHAR(16)     NOT NULL COMMENT 'open, suspended, closed',
    opens_at        BIGINT UNSIGNED NOT NULL COMMENT 'unix ms',
    closes_at       BIGINT UNSIGNED NOT NULL COMMENT 'unix ms',
    limit_per_buyer INT UNSIGNED    NOT NULL COMMENT '0 = none',
    item            JSON            NOT NULL COMMENT 'the item as the FlashSale states it',
    item_id         BIGINT          NULL     COMMENT 'the number on the old demo''s routes',
    price           DECIMAL(18,4)   NOT NULL COMMENT 'of one unit',
    currency        CHAR(3)         NOT NULL,
    offered         BIGINT UNSIGNED NOT NULL COMMENT 'the stock as the FlashSale states it; what counts is total',
    created_at      DATETIME(3)     NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at      DATETIME(3)     NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    live_epoch      BIGINT          NULL     COMMENT 'the epoch of the index that sells; only rises',
    total           BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'the highest TOTAL of the log',
    sold            BIGINT UNSIGNED NOT NULL DEFAULT 0 COMMENT 'units in live orders',
    cur             BIGINT          NULL     COMMENT 'the offset of the latest BARRIER or CLOSE',
    closed_at       BIGINT          NULL     COMMENT 'the offset of CLOSE',
    settled_at      DATETIME(3)     NULL,
    PRIMARY KEY (id),
    UNIQUE KEY sale_name (class, namespace, name),
    KEY item (item_id),
    KEY settled (settled_at),
    -- The last of several guards, and the one that no program can forget.
    CONSTRAINT never_oversold CHECK (sold <= total)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

CREATE TABLE orders (
    sale       INT UNSIGNED     NOT NULL,
    epoch      BIGINT           NOT NULL,
    seq        BIGINT UNSIGNED  NOT NULL,
    buyer      VARCHAR(128)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    tier       TINYINT UNSIGNED NOT NULL,
    key_hash   BIGINT UNSIGNED  NOT NULL,
    quantity   INT UNSIGNED     NOT NULL,
    price      DECIMAL(18,4)    NOT NULL COMMENT 'of one unit',
    status     VARCHAR(16)      NOT NULL COMMENT 'placed, pending_payment, paid, cancelled, expired',
    created_at DATETIME(3)      NOT NULL COMMENT 'the time stamp of its record in the log',
    updated_at DATETIME(3)      NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (sale, epoch, seq),
    KEY buyer (sale, buyer)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Up to where the log was folded into the tables above. It moves in the same transaction as they do.
CREATE TABLE log_position (
    part INT UNSIGNED NOT NULL,
    off  BIGINT       NOT NULL COMMENT 'the offset to read next',
    PRIMARY KEY (part)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

-- Records that could not be folded, for a person to look at. Never skipped in silence.
CREATE TABLE quarantine (
    part       INT UNSIGNED    NOT NULL,
    off        BIGINT          NOT NULL,
    reason     TEXT            NOT NULL,
    payload    MEDIUMBLOB      NOT NULL,
    -- Set when the record's orders count and were not stored: they were promised, so they still take their units.
    sale       INT UNSIGNED    NULL,
    epoch      BIGINT          NULL,
    first_seq  BIGINT UNSIGNED NULL,
    last_seq   BIGINT UNSIGNED NULL,
    created_at DATETIME(3)     NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (part, off),
    KEY promised (sale, epoch, first_seq)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;
