-- The emergency stop of a release: `operator suspend --all` begins it, `operator resume --all` ends it.

CREATE TABLE emergency_stops (
    class      VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    active     BOOLEAN     NOT NULL COMMENT 'no sale of the class sells, whatever the state of its row',
    changed_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (class)
) ENGINE = InnoDB DEFAULT CHARACTER SET utf8mb4;
