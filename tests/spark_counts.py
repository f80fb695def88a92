#!/usr/bin/env python3
"""Counts the windows of a table of documents with one Spark SQL statement; docs/scale.md explains it.

    spark_counts.py DOCS TABLE ORDER [--master local[2]] [--memory 4g]

DOCS is a Parquet table with a column `tokens` (array<int>), one document a row. TABLE becomes the table of counts.
"""
import argparse

from pyspark.sql import SparkSession

SQL = """
WITH text AS (
  SELECT concat(array(-1L), CAST(tokens AS array<bigint>), array(-2L)) AS words FROM docs
),
windows AS (
  SELECT slice(words, greatest(i - {n} + 2, 1), least(i + 1, {n})) AS ids
  FROM (SELECT words, explode(sequence(1, size(words) - 1)) AS i FROM text)
)
SELECT size(ids) AS `order`, ids, count(*) AS `count`
FROM windows
GROUP BY ids
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("docs")
    parser.add_argument("table")
    parser.add_argument("order", type=int)
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--memory", default="4g")
    options = parser.parse_args()
    spark = (
        SparkSession.builder.master(options.master)
        .config("spark.driver.memory", options.memory)
        .config("spark.log.level", "ERROR")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    spark.read.parquet(options.docs).createOrReplaceTempView("docs")
    spark.sql(SQL.format(n=options.order)).write.mode("overwrite").parquet(options.table)
    spark.stop()


if __name__ == "__main__":
    main()
