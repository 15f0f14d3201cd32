-- Which format each running program speaks, and which one the ledger requires: see libs/protocol/src/format.rs.

CREATE TABLE heartbeats (
    program  VARCHAR(16)       CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'operator, seckill-api, order-worker',
    instance VARCHAR(253)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'the name of its pod',
    format   SMALLINT UNSIGNED NOT NULL COMMENT 'the format that it speaks',
    at       DATETIME(3)       NOT NULL COMMENT 'the last heartbeat, by the clock of this server',
    PRIMARY KEY (program, instance)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

-- One row. Its format only rises.
CREATE TABLE required_format (
    id     TINYINT UNSIGNED  NOT NULL DEFAULT 1,
    format SMALLINT UNSIGNED NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT one_row CHECK (id = 1)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;

INSERT INTO required_format (format) VALUES (1);

ALTER TABLE sales
    ADD COLUMN format SMALLINT UNSIGNED NOT NULL DEFAULT 1 COMMENT 'the format that a program needs to work on the sale' AFTER part;
