-- Who can buy: the issuer of the buyers' tokens, or anyone.

ALTER TABLE sales
    ADD COLUMN issuer VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NULL
        COMMENT 'its tokens identify the buyers; null: buyers are anonymous' AFTER item_id;
