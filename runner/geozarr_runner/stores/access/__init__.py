"""How a store is reached: connection and filesystem, what errors mean, when and how often calls are made."""
