"""The meter: reads the usage stream, keeps the books in Postgres, and keeps Redis's projection of them true."""
