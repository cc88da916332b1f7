"""Tables, figures and the page; needs neither torch nor ray."""
