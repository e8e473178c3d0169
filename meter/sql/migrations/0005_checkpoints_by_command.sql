-- People's command signs checkpoints too (`sundial checkpoint create`): the signature, not the row, is what proves.

SET LOCAL search_path = sundial;

GRANT INSERT ON checkpoints TO sundial_console;
